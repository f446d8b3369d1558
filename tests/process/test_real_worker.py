"""The life of a worker that has its real engine, with the small model of this repository."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.process.exit_codes import ExitCode
from tests.process.spawned import PATIENCE, ROOT, Spawned, spawned

MODEL = ROOT / "examples" / "tiny-chat" / "model"
REAL = (sys.executable, "-m", "backend")
# Runs until the context is full, unless somebody ends it.
ENDLESS = pb.PredictOptions(Prompt="Once upon a time", IgnoreEOS=True, Temperature=1.0)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MODEL.exists(), reason="needs examples/tiny-chat/model")]


def load(backend: Any) -> None:
    result = backend.LoadModel(pb.ModelOptions(Model=str(MODEL)), timeout=PATIENCE)
    assert result.success, result.message


@pytest.fixture
def worker() -> Iterator[Spawned]:
    with spawned(REAL, "--grace", "300ms") as running:
        yield running


def test_nothing_on_the_way_to_the_open_port_imports_mlx_or_a_tokenizer() -> None:
    modules = "backend.process.settings, backend.process.worker, backend.engine.handle, backend.engine.loads"
    code = f"import sys, {modules}; print(*sorted(name.split('.')[0] for name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"mlx", "mlx_lm", "transformers", "tokenizers", "jinja2"} & set(run.stdout.split())


def test_health_answers_before_during_and_after_a_load(worker: Spawned) -> None:
    with worker.client() as backend:
        assert backend.Health(pb.HealthMessage(), timeout=PATIENCE).message == b"OK"
        loading = backend.LoadModel.future(pb.ModelOptions(Model=str(MODEL)), timeout=PATIENCE)
        while not loading.done():
            assert backend.Health(pb.HealthMessage(), timeout=PATIENCE).message == b"OK"
        assert loading.result().success
        assert backend.Health(pb.HealthMessage(), timeout=PATIENCE).message == b"OK"


def test_a_signal_in_mid_stream_cuts_it_at_the_grace_and_exits_0(worker: Spawned) -> None:
    with worker.client() as backend:
        load(backend)
        stream = backend.PredictStream(ENDLESS, timeout=PATIENCE)
        next(stream)
        began = time.monotonic()
        worker.signal()
        with pytest.raises(grpc.RpcError) as cut:
            for _ in stream:
                pass
        assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
        assert worker.end()[0] == ExitCode.STOPPED
        assert time.monotonic() - began < 0.3 + 20
    assert not any("Traceback" in line for line in worker.log)


def test_a_signal_while_mlx_is_imported_exits_0() -> None:
    for _ in range(3):
        with spawned(REAL) as worker:
            worker.signal(signal.SIGTERM)
            assert worker.end()[0] == ExitCode.STOPPED


def test_exits_after_a_stream_are_all_0() -> None:
    for _ in range(3):
        with spawned(REAL, "--grace", "0") as worker, worker.client() as backend:
            load(backend)
            next(backend.PredictStream(ENDLESS, timeout=PATIENCE))
            worker.signal()
            assert worker.end()[0] == ExitCode.STOPPED


def test_it_ends_in_mid_stream_when_its_parent_is_killed() -> None:
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    with (
        spawned((sys.executable, "-c", starter, *REAL), "--parent-watch", "100ms") as worker,
        worker.client() as backend,
    ):
        load(backend)
        stream = backend.PredictStream(ENDLESS, timeout=PATIENCE)
        next(stream)
        began = time.monotonic()
        worker.process.kill()
        with pytest.raises(grpc.RpcError):
            for _ in stream:
                pass
        # The log's pipe ends when the worker, which inherited it, is gone.
        _, last = worker.end()
        assert last == "mlx-worker: the process that started this worker is gone"
        assert time.monotonic() - began < 20


def test_the_script_starts_the_real_worker() -> None:
    env = {**os.environ, "MLX_WORKER_PYTHON": sys.executable}
    command = [ROOT / "run.sh", "--version"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert run.stdout.startswith("mlx-worker ")
