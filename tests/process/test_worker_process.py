"""A spawned worker with a scripted engine: ready, signals, exit codes, the parent."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.process.exit_codes import ExitCode
from tests import observed
from tests.process.spawned import PATIENCE, ROOT, SCRIPTED, spawned
from tests.tiers import slow

HI = pb.PredictOptions(Prompt="hi")
WAIT = pb.PredictOptions(Prompt="wait")


def test_it_says_where_it_listens_and_answers_there() -> None:
    with spawned() as worker:
        assert worker.pid == worker.process.pid
        with worker.client() as backend:
            assert backend.Health(pb.HealthMessage(), timeout=PATIENCE).message == b"OK"
            assert backend.Predict(HI, timeout=PATIENCE).message == b"Hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT), slow(signal.SIGHUP)])
def test_a_signal_ends_it_with_code_0(number: signal.Signals) -> None:
    with spawned() as worker:
        worker.signal(number)
        code, last = worker.end()
        assert code == ExitCode.STOPPED
        assert f'stopping code=0 reason="stopped by {number.name}"' in last


def test_a_terminal_that_closes_does_not_end_a_worker_started_with_nohup() -> None:
    with spawned(("nohup", *SCRIPTED)) as worker, worker.client() as backend:
        worker.signal(signal.SIGHUP)
        assert backend.Health(pb.HealthMessage(), timeout=PATIENCE).message == b"OK"
        worker.signal(signal.SIGTERM)
        assert worker.end()[0] == ExitCode.STOPPED


def test_a_running_stream_is_finished_within_the_grace_or_cut_unavailable() -> None:
    with spawned(SCRIPTED, "--grace", "200ms") as worker, worker.client() as backend:
        stream = backend.PredictStream(WAIT, timeout=PATIENCE)
        assert next(stream).message == b"started"
        began = time.monotonic()
        worker.signal()
        with pytest.raises(grpc.RpcError) as cut:
            next(stream)
        assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
        assert worker.end()[0] == ExitCode.STOPPED
        assert time.monotonic() - began < 0.2 + 20


def test_a_second_signal_cuts_the_grace_short() -> None:
    with spawned(SCRIPTED, "--grace", "1h") as worker, worker.client() as backend:
        stream = backend.PredictStream(WAIT, timeout=PATIENCE)
        assert next(stream).message == b"started"
        worker.signal()
        worker.wait_for(re.compile("stopping"))
        worker.signal()
        assert worker.end()[0] == ExitCode.STOPPED


def test_a_dead_engine_ends_the_process_with_a_clear_last_line() -> None:
    with spawned() as worker, worker.client() as backend:
        backend.Predict(pb.PredictOptions(Prompt="die"), timeout=PATIENCE)
        assert worker.end() == (ExitCode.ENGINE_DEAD, "mlx-worker: the engine thread died: told to")


def test_a_server_that_has_ended_by_itself_ends_the_process() -> None:
    """Alive without a port, it would be taken for one that serves."""
    with spawned() as worker, worker.client() as backend:
        with contextlib.suppress(grpc.RpcError):
            backend.Predict(pb.PredictOptions(Prompt="deaf"), timeout=PATIENCE)
        assert worker.end() == (ExitCode.FAULT, "mlx-worker: gRPC's server has ended")


def test_a_port_in_use_ends_it_before_ready() -> None:
    with spawned() as first, spawned(SCRIPTED, "--addr", first.address, ready=False) as second:
        code, last = second.end()
        assert code == ExitCode.ADDRESS
        assert last == f"mlx-worker: cannot listen on {first.address}: address in use or not ours"
        assert not any(" ready address=" in line for line in second.log)


def test_an_open_address_without_a_token_ends_it() -> None:
    with spawned(SCRIPTED, "--addr", "0.0.0.0:0", ready=False) as worker:
        code, last = worker.end()
        assert code == ExitCode.ADDRESS
        assert "without a token" in last


def test_wrong_arguments_end_it_with_code_2() -> None:
    with spawned(SCRIPTED, "--grace", "soon", ready=False) as worker:
        code, last = worker.end()
        assert (code, "--grace" in last) == (ExitCode.USAGE, True)


@pytest.mark.slow
def test_one_exit_after_another_is_clean() -> None:
    for _ in range(3):
        with spawned() as worker:
            worker.signal()
            assert worker.end()[0] == ExitCode.STOPPED


def test_it_ends_when_its_parent_is_killed() -> None:
    read, write = os.pipe()
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)",
            *SCRIPTED,
            "--addr=127.0.0.1:0",
            "--parent-watch=100ms",
        ],
        cwd=ROOT,
        stderr=write,
    )
    os.close(write)
    with os.fdopen(read) as log:
        line = log.readline()
        assert "ready" in line
        parent.kill()
        parent.wait(PATIENCE)
        # The pipe ends when the worker, which inherited it, is gone.
        rest = log.read().splitlines()
    assert rest[-1] == "mlx-worker: the process that started this worker is gone"


def test_it_ends_when_its_parent_was_gone_before_python_had_started(tmp_path: Path) -> None:
    slow_python = tmp_path / "python"
    slow_python.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/begun\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n"
        f'exec {sys.executable} "$@"\n'
    )
    slow_python.chmod(0o755)
    read, write = os.pipe()
    host = f'"$@" & while [ ! -e {tmp_path}/begun ]; do sleep 0.02; done'
    subprocess.run(
        ["sh", "-c", host, "host", str(ROOT / "run.sh"), "--addr=127.0.0.1:0", "--parent-watch=100ms"],
        env={**os.environ, "MLX_WORKER_PYTHON": str(slow_python)},
        stdout=write,
        stderr=write,
        check=True,
    )
    os.close(write)
    (tmp_path / "go").touch()
    with os.fdopen(read) as log:
        pid = int(re.search(r"ready .*pid=(\d+)", log.readline())[1])  # type: ignore[index]
        killing = threading.Timer(60, os.kill, (pid, signal.SIGKILL))
        killing.start()
        rest = log.read().splitlines()
        killing.cancel()
    assert rest[-1] == "mlx-worker: the process that started this worker is gone"


def test_files_are_ours_alone_and_no_core_is_dumped(socket_folder: Path) -> None:
    with spawned(SCRIPTED, f"--addr=unix:{socket_folder}/s") as worker:
        assert (socket_folder / "s").stat().st_mode & 0o077 == 0
        assert observed.core_limits(worker.pid) in ((0, 0), None)


def test_a_killed_worker_leaves_a_socket_that_the_next_one_takes(socket_folder: Path) -> None:
    address = f"--addr=unix:{socket_folder}/s"
    with spawned(SCRIPTED, address) as worker:
        with spawned(SCRIPTED, address, ready=False) as rival:
            code, last = rival.end()
            assert (code, "in use" in last) == (ExitCode.ADDRESS, True)
        worker.signal(signal.SIGKILL)
        worker.end()
    with spawned(SCRIPTED, address) as worker, worker.client() as backend:
        assert backend.Health(pb.HealthMessage(), timeout=PATIENCE).message == b"OK"


def test_it_serves_with_its_standard_streams_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = " ".join((*SCRIPTED, f"--addr=127.0.0.1:{port}", "<&-", ">&-", "2>&-"))
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=ROOT)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
            call = channel.unary_unary("/backend.Backend/Health")
            assert pb.Reply.FromString(call(b"", timeout=PATIENCE)).message == b"OK"
        # Otherwise a socket would be there, and get what is printed.
        assert observed.standard_streams(process.pid) in ([os.devnull] * 3, None)
        process.terminate()
        assert process.wait(PATIENCE) == ExitCode.STOPPED
    finally:
        process.kill()
