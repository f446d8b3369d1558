"""What the worker is started with and what goes while it runs: limits, standard error, directory, socket."""

import os
import shutil
import signal
from pathlib import Path

import grpc
import psutil
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.e2e.asking import chat, prompt, stream
from tests.e2e.oracle import Golden
from tests.e2e.worker import ROOT, TINY_CHAT, Worker
from tests.models import write_model

STORY = "Once upon a time"
HELD = prompt(STORY, 3, Grammar='root ::= "yes"')
OK, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL
ENGINE_DEAD = 4


class Prepared(Worker):
    """A worker that a shell starts, after a command of its own and with such redirections."""

    def __init__(self, before: str, *arguments: str, redirected: str = "", address: str = "127.0.0.1:0") -> None:
        # Wherever it begins, its modules are found.
        super().__init__(*arguments, address=address, environment={"PYTHONPATH": str(ROOT)})
        self._command = ["/bin/sh", "-c", f'{before}; exec "$@" {redirected}', "sh", *self._command]


@pytest.mark.slow
@pytest.mark.parametrize("most", [32, 64])
def test_with_few_descriptors_it_serves(most: int) -> None:
    with Prepared(f"ulimit -n {most}") as worker:
        worker.must_load()
        Golden.of(worker).check(worker)


@pytest.mark.slow
def test_with_fewer_descriptors_than_a_load_takes_it_ends_with_the_reason() -> None:
    with Prepared("ulimit -n 16") as worker:
        worker.expected_code = ENGINE_DEAD
        assert not worker.load().success
        assert worker.wait(60) == ENGINE_DEAD
    assert "Too many open files" in worker.log.whole()[-1]


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_costs_what_the_disk_would_keep(tmp_path: Path) -> None:
    """The signal that a file over it brings ends nothing."""
    with Prepared("ulimit -f 2", "--prompt-cache-dir", str(tmp_path / "kv")) as worker:
        worker.must_load()
        golden = Golden.of(worker, tmp_path / "kv")
        long = prompt(f"{STORY} " * 60, 4, Logprobs=1)
        assert len({stream(worker.stub, long).last.logprobs for _ in range(3)}) == 1
        worker.log.wait_for("File too large")
        golden.check(worker)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["256", "unlimited"])
def test_a_stack_of_another_size_costs_a_grammar_at_most(size: str) -> None:
    with Prepared(f"ulimit -s {size}") as worker:
        worker.must_load()
        assert stream(worker.stub, prompt(STORY, 3)).code is OK
        assert stream(worker.stub, chat(STORY, 3)).code is OK
        held = stream(worker.stub, HELD)
        assert (held.code, held.text) == (OK, "yes") or (held.code is INTERNAL and "Grammar" in held.details)
        assert size != "unlimited" or held.code is OK
        worker.rest()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
def test_a_log_to_a_full_device_costs_its_lines(socket_folder: Path) -> None:
    worker = Prepared(":", "--grace", "1s", address=f"unix:{socket_folder}/w.sock", redirected=">/dev/full 2>/dev/full")
    worker.spawn()
    try:
        with grpc.insecure_channel(f"unix:{socket_folder}/w.sock") as channel:
            stub = BackendStub(channel)
            loaded = stub.LoadModel(pb.ModelOptions(Model=str(TINY_CHAT)), timeout=120, wait_for_ready=True)
            assert loaded.success, loaded.message
            assert not stub.LoadModel(pb.ModelOptions(Model="/nonexistent"), timeout=60).success
            for request in (prompt(STORY, 3), HELD, chat(STORY, 3)):
                assert stream(stub, request).code is OK
            worker.signal(signal.SIGTERM)
            assert worker.wait(60) == 0
    finally:
        if worker.process.poll() is None:
            worker.signal(signal.SIGKILL)
            worker.wait(60)
        worker.reader.join(60)
        assert worker.process.stderr is not None
        worker.process.stderr.close()
    assert worker.log.lines == []


@pytest.mark.slow
def test_a_working_directory_that_goes_costs_nothing_once_a_model_is_loaded(tmp_path: Path) -> None:
    """Another load, a grammar and a template, whose processes begin there, too."""
    (tmp_path / "cwd").mkdir()
    write_model(tmp_path / "other")
    with Prepared(f"cd {tmp_path}/cwd") as worker:
        worker.must_load()
        golden = Golden.of(worker)
        (tmp_path / "cwd").rmdir()
        for child in psutil.Process(worker.pid).children():
            child.kill()
        assert stream(worker.stub, HELD).text == "yes"
        assert stream(worker.stub, chat(STORY, 3)).code is OK
        worker.must_load(tmp_path / "other")
        assert not worker.load("relative").success
        golden.check(worker)


@pytest.mark.slow
def test_a_working_directory_that_goes_before_the_first_load_ends_it_with_the_reason(tmp_path: Path) -> None:
    """A library asks for it as it is imported."""
    (tmp_path / "cwd").mkdir()
    with Prepared(f"cd {tmp_path}/cwd") as worker:
        worker.expected_code = ENGINE_DEAD
        (tmp_path / "cwd").rmdir()
        assert not worker.load().success
        assert worker.wait(60) == ENGINE_DEAD
    assert "No such file or directory" in worker.log.whole()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["socket", "its directory"])
def test_a_unix_socket_that_goes_costs_those_who_would_come(socket_folder: Path, what: str) -> None:
    """Who is connected is served; its name is not given to another worker while its lock is there; exit code 0."""
    folder = socket_folder / "private"
    address = f"unix:{folder}/worker.sock"
    with Worker("--grace", "1s", address=address) as worker:
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
        if what == "socket":
            os.unlink(folder / "worker.sock")
        else:
            shutil.rmtree(folder)
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
        if what == "socket":
            second = Worker(address=address)
            second.spawn()
            assert second.wait(60) == 3
            assert "address in use" in second.log.whole()[-1]
            second.process.stderr.close()  # type: ignore[union-attr]
        worker.signal(signal.SIGTERM)
        assert worker.wait(60) == 0
