"""A machine that has no more for the worker: threads, descriptors, room in TMPDIR and HOME."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.e2e.asking import chat, finish, prompt, running, stream
from tests.e2e.mounts import mounted
from tests.e2e.oracle import Golden
from tests.e2e.unsteady import Unsteady, child
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

STORY = "Once upon a time"
HELD = prompt(STORY, 3, Grammar='root ::= "yes"')
OWN = (("grpc.use_local_subchannel_pool", 1),)
OK, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Unsteady, Golden]]:
    folder = tmp_path_factory.mktemp("machine")
    unsteady = Unsteady(folder, "--metrics-port", "auto")
    with unsteady.worker as worker:
        worker.must_load()
        yield unsteady, Golden.of(worker, folder)


@pytest.fixture
def unsteady(standing: tuple[Unsteady, Golden]) -> Iterator[Unsteady]:
    """A worker that is as good as new once its machine is."""
    standing[0].worker.must_load()
    yield standing[0]
    standing[1].check(standing[0].worker)


# Threads


def test_without_new_threads_what_is_loaded_is_served_as_before(unsteady: Unsteady) -> None:
    """Two conversations at once, a long prompt, texts of megabytes, a scrape: nothing of it begins a thread."""
    worker = unsteady.worker
    worker.must_load(TINY_CHAT, "max_rows:3")
    # The process for grammars begins with the load, on a busy machine some time after it.
    assert stream(worker.stub, prompt(STORY, 3, Grammar='root ::= "no"')).text == "no"
    unsteady.order("threads none")
    try:
        with running(worker.stub, *(chat(f"{STORY} {index}", 20) for index in range(6)), begun=False) as calls:
            assert {finish(call).code for call in calls} == {OK}
        assert stream(worker.stub, HELD).text == "yes"
        assert worker.stub.TokenizeString(prompt("word " * 30_000), timeout=30).length > 30_000
        with ExitStack() as stack:
            connections = [stack.enter_context(grpc.insecure_channel(worker.address, OWN)) for _ in range(4)]
            for channel in connections:
                assert BackendStub(channel).Health(pb.HealthMessage(), timeout=60).message == b"OK"
    finally:
        unsteady.order("threads any")


def test_without_new_threads_a_load_says_why_and_free_frees(unsteady: Unsteady) -> None:
    worker = unsteady.worker
    children = len(psutil.Process(worker.pid).children())
    unsteady.order("threads none")
    try:
        result = worker.load(TINY_CHAT, "max_rows:3")
        assert not result.success
        assert "thread" in result.message
        assert worker.stub.Free(pb.HealthMessage(), timeout=30).success
        assert not worker.load().success
    finally:
        unsteady.order("threads any")
    # What prepared requests for the model that went is let go as soon as a thread can be had for it.
    wait_until(lambda: not psutil.Process(worker.pid).children(), "processes of the model before")
    worker.must_load()
    wait_until(lambda: len(psutil.Process(worker.pid).children()) == children, "processes of the model")


def test_without_new_threads_a_grammar_fails_and_not_those_after(unsteady: Unsteady) -> None:
    """The process that tries grammars has died, and who reads from a new one cannot be started."""
    worker = unsteady.worker
    assert stream(worker.stub, HELD).text == "yes"
    unsteady.order("threads none")
    try:
        child(worker, "trial_process").kill()
        failed = stream(worker.stub, prompt(STORY, 3, Grammar='root ::= "no"'), seconds=30)
        failed.refused(INTERNAL)
    finally:
        unsteady.order("threads any")
    assert stream(worker.stub, prompt(STORY, 3, Grammar='root ::= "no"'), seconds=30).text == "no"


def test_without_new_threads_scrapes_are_let_go_and_come_back(unsteady: Unsteady) -> None:
    worker = unsteady.worker
    port = int(worker.log.wait_for(r"metrics url=http://127.0.0.1:(\d+)/")[1])
    unsteady.order("threads none")
    try:
        # More than are answered at a time.
        assert [scrape(port) for _ in range(12)] == [b""] * 12
    finally:
        unsteady.order("threads any")
    assert scrape(port).startswith(b"HTTP/1.0 200") or scrape(port).startswith(b"HTTP/1.1 200")


def scrape(port: int) -> bytes:
    """The first bytes of what the operator's port answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        try:
            return connection.recv(64)
        except ConnectionResetError:
            return b""


def test_without_new_threads_a_signal_ends_it_with_code_0(tmp_path: Path) -> None:
    unsteady = Unsteady(tmp_path, "--grace", "0")
    with unsteady.worker as worker:
        worker.must_load()
        unsteady.order("threads none")
        worker.signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_without_new_threads_the_prompt_cache_is_in_memory(tmp_path: Path) -> None:
    """A directory is opened by threads, which are there or not; a request never waits for one that is not."""
    unsteady = Unsteady(tmp_path)
    options = (f"prompt_cache_dir:{tmp_path}/kv", "prompt_cache_bytes:1MiB")
    with unsteady.worker as worker:
        worker.must_load(TINY_CHAT, *options)
        golden = Golden.of(worker, tmp_path)
        unsteady.order("threads none")
        for index in range(5):
            answer = stream(worker.stub, prompt(f"{index % 3} {STORY} " * 40, 3), seconds=60)
            assert answer.code is OK, answer.details
        unsteady.order("threads any")
        assert stream(worker.stub, prompt(STORY, 3)).code is OK
        golden.check(worker)


# Descriptors and files


@pytest.mark.skipif(not psutil.LINUX, reason="no other process's limit can be set")
def test_without_new_descriptors_running_answers_go_on_and_loads_say_why(
    unsteady: Unsteady, standing: tuple[Unsteady, Golden]
) -> None:
    """Connections take all there are; those that came too late are served once there are some again."""
    worker = unsteady.worker
    host, _, port = worker.address.rpartition(":")
    of_worker = psutil.Process(worker.pid)
    before = of_worker.rlimit(psutil.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(of_worker.rlimit, psutil.RLIMIT_NOFILE, before)
        with standing[1].beside(worker):
            most = worker.descriptors().total() + 4
            of_worker.rlimit(psutil.RLIMIT_NOFILE, (most, before[1]))
            for _ in range(40):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            wait_until(lambda: worker.descriptors().total() >= most, "no descriptor left")
            assert stream(worker.stub, prompt(STORY, 3)).code is OK
            assert stream(worker.stub, HELD).code in (OK, INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)
        result = worker.load(TINY_CHAT, "max_rows:3")
        assert not result.success
        assert "Too many open files" in result.message
    with grpc.insecure_channel(worker.address, OWN) as channel:
        stub = BackendStub(channel)
        assert stub.Health(pb.HealthMessage(), timeout=30, wait_for_ready=True).message == b"OK"


@pytest.mark.parametrize("place", ["a file", "nowhere"])
def test_without_a_place_for_temporary_files_and_settings_it_serves(tmp_path: Path, place: str) -> None:
    """Nothing is written to TMPDIR and HOME that an answer needs. Root writes where a mode forbids it, so a file."""
    (tmp_path / "file").touch()
    there = str(tmp_path / ("file" if place == "a file" else "nowhere") / "below")
    names = ("TMPDIR", "HOME", "XDG_CACHE_HOME", "HF_HOME")
    with Worker(environment=dict.fromkeys(names, there)) as worker:
        worker.must_load()
        Golden.of(worker).check(worker)
        worker.log.wait_for("kernels_not_compiled")


@pytest.mark.parametrize("options", ["size=16m,ro", "size=64k,mode=700"])
def test_a_temporary_file_system_that_is_full_or_read_only_costs_no_load(tmp_path: Path, options: str) -> None:
    with mounted(tmp_path / "temporary", options) as place, Worker(environment={"TMPDIR": str(place)}) as worker:
        worker.must_load()
        worker.log.wait_for("kernels_not_compiled")
        assert stream(worker.stub, HELD).text == "yes"
        Golden.of(worker).check(worker)


@pytest.mark.timeout(600)
def test_twenty_lives_end_with_code_0_and_leave_nothing(tmp_path: Path, socket_folder: Path) -> None:
    """Start, load, serve, SIGTERM; a socket, a cache directory and processes of its own each time."""
    temporary, cache = tmp_path / "temporary", tmp_path / "kv"
    temporary.mkdir()
    for index in range(20):
        address = f"unix:{socket_folder}/private/worker.sock"
        worker = Worker("--grace", "1s", address=address, environment={"TMPDIR": str(temporary)})
        with worker:
            worker.must_load(TINY_CHAT, f"prompt_cache_dir:{cache}")
            assert stream(worker.stub, HELD).text == "yes"
            children = psutil.Process(worker.pid).children(recursive=True)
            with running(worker.stub, prompt(f"{index}", 4000, IgnoreEOS=True)):
                worker.signal(signal.SIGTERM)
                started = time.monotonic()
                assert worker.wait(60) == 0
                # The answer would take longer than the grace and what a busy machine takes.
                assert time.monotonic() - started < 20
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
        # MLX keeps there what it has compiled.
        assert {path.name for path in temporary.iterdir()} <= {"mlx"}
        left = {path.name for path in (socket_folder / "private").iterdir()} - {"worker.sock.lock"}
        assert not left, left
        assert not [path for path in cache.rglob("*") if ".tmp" in path.name]
