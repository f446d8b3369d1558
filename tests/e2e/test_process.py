"""The process seen from outside: its ends, its sockets, its token."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.oracle import as_good_as_new
from tests.e2e.worker import ROOT, TINY_CHAT, Worker, wait_until
from tests.observed import is_running
from tests.tiers import slow

STORY = "Once upon a time"
EMPTY = pb.HealthMessage()
ENDLESS = prompt(STORY, 8000, IgnoreEOS=True)


def test_a_signal_lets_streams_finish_within_the_grace() -> None:
    """NOT_SERVING and UNAVAILABLE to others meanwhile, then exit 0."""
    with Worker("--grace", "20s") as worker:
        worker.must_load()
        with running(worker.stub, prompt(STORY, 150, IgnoreEOS=True)) as (call,):
            worker.signal(signal.SIGTERM)
            health = health_pb2_grpc.HealthStub(worker.channel)
            request = health_pb2.HealthCheckRequest()
            not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
            wait_until(lambda: health.Check(request, timeout=60).status == not_serving, "NOT_SERVING")
            assert stream(worker.stub, prompt(STORY, 3)).code is grpc.StatusCode.UNAVAILABLE
            end = finish(call)
            assert (end.code, end.last.tokens) == (grpc.StatusCode.OK, 150)
        assert worker.wait(60) == 0


@pytest.mark.slow
def test_a_stream_longer_than_the_grace_is_cut() -> None:
    """Exit 0 within the grace and a second."""
    with Worker("--grace", "0.5s") as worker:
        worker.must_load()
        with running(worker.stub, ENDLESS) as (call,):
            worker.signal(signal.SIGTERM)
            assert finish(call).code is grpc.StatusCode.UNAVAILABLE
        assert worker.wait(60) == 0


@pytest.mark.slow
def test_every_exit_is_clean_whatever_runs() -> None:
    """A live thread with MLX objects aborts some exits; tests/process has many more."""
    for index in range(6):
        with Worker("--grace", "0") as worker:
            if index % 2:
                worker.must_load()
                with running(worker.stub, ENDLESS):
                    worker.signal(signal.SIGTERM)
                    assert worker.wait(60) == 0


@pytest.mark.slow
def test_a_watchdog_of_no_seconds_is_off() -> None:
    """It is looked at every second: the answer takes longer."""
    with Worker("--grace", "0") as worker, as_good_as_new(worker):
        worker.must_load(TINY_CHAT, "watchdog_s:0")
        with running(worker.stub, ENDLESS):
            time.sleep(2.5)
            assert worker.stub.Health(EMPTY, timeout=60).message == b"OK"


LAUNCHER = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)
for line in child.stderr:
    print(line, end="", flush=True)
"""


@pytest.mark.slow
def test_the_worker_follows_a_host_that_was_killed() -> None:
    """In mid-stream; its port is free again."""
    command = [sys.executable, "-m", "backend", "--addr", "127.0.0.1:0", "--blas", "reference"]
    host = subprocess.Popen([sys.executable, "-c", LAUNCHER, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        ready = next(filter(None, (re.search(r"ready address=\S+:(\d+) pid=(\d+)", line) for line in host.stdout)))
        port, pid = int(ready[1]), int(ready[2])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = BackendStub(channel)
            assert stub.LoadModel(pb.ModelOptions(Model=str(TINY_CHAT)), timeout=60).success
            with running(stub, ENDLESS):
                host.kill()
                host.wait(60)
                wait_until(lambda: not is_running(pid), "the worker follows", 20)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    finally:
        host.kill()
        host.wait(60)
        host.stdout.close()


def test_nothing_forks() -> None:
    """A child forked beside MLX hangs in its first evaluation; processes are spawned. Forks of a process that has no
    MLX and one thread are another matter (`tests/grammar/test_trials.py`)."""
    forking = re.compile(r"\bos\.fork|\bforkpty|multiprocessing|\bpreexec_fn|ProcessPoolExecutor")
    for path in (*(ROOT / "backend").rglob("*.py"), *(ROOT / "mlx_cache").rglob("*.py")):
        if path.name != "trial_process.py":
            assert not forking.search(path.read_text()), path


@pytest.mark.slow
def test_a_port_in_use() -> None:
    """Exit code 3 and one line, before `ready`."""
    with Worker() as first:
        second = Worker(address=first.address)
        second.spawn()
        assert second.wait(60) == 3
        lines = second.log.whole()
        second.process.stderr.close()  # type: ignore[union-attr]
        assert "address in use" in lines[-1]
        assert not any(" ready " in line for line in lines)


@pytest.mark.slow
def test_a_unix_socket_serves_and_a_stale_one_is_taken(socket_folder: Path) -> None:
    """A killed worker leaves its socket behind; a living one keeps it."""
    address = f"unix:{socket_folder}/private/worker.sock"
    first = Worker(address=address)
    first.expected_code = -signal.SIGKILL
    with first:
        assert first.stub.Health(EMPTY, timeout=60).message == b"OK"
        second = Worker(address=address)
        second.spawn()
        assert second.wait(60) == 3
        assert "address in use" in second.log.whole()[-1]
        second.process.stderr.close()  # type: ignore[union-attr]
        first.signal(signal.SIGKILL)
        first.wait(60)
    assert (socket_folder / "private").stat().st_mode & 0o777 == 0o700
    with Worker(address=address) as third, as_good_as_new(third):
        assert stream(third.stub, prompt(STORY, 3)).last.tokens == 3


@pytest.mark.parametrize(
    "what", ["a path that is too long", *map(slow, ("a regular file", "a directory that there cannot be"))]
)
def test_an_address_that_cannot_be_had_ends_it_before_ready(socket_folder: Path, what: str) -> None:
    """Exit code 3 and one line; what is there is left alone."""
    (socket_folder / "file").write_text("mine")
    places = {"a path that is too long": "d" * 120, "a regular file": "file"}
    worker = Worker(address=f"unix:{socket_folder}/{places.get(what, 'file/below/worker.sock')}")
    worker.spawn()
    assert worker.wait(60) == 3
    lines = worker.log.whole()
    worker.process.stderr.close()  # type: ignore[union-attr]
    assert lines[-1].startswith("mlx-worker: ")
    assert not any(" ready " in line or "Traceback" in line for line in lines)
    assert (socket_folder / "file").read_text() == "mine"


def methods() -> list[tuple[str, bool]]:
    """Every method of our services: path, and whether it streams."""
    services = pb.DESCRIPTOR.services_by_name.values()
    return [(f"/{s.full_name}/{m.name}", m.server_streaming) for s in services for m in s.methods]


def code_of(method: Any, data: bytes, metadata: Any) -> grpc.StatusCode:
    """How a call ends."""
    try:
        answer = method(data, timeout=60, metadata=metadata)
        if not isinstance(answer, bytes):
            list(answer)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK


TOKENS: list[tuple[tuple[str, Any], ...]] = [
    (),
    (("authorization", "Bearer wrong"),),
    (("authorization", "Bearer "),),
    (("authorization", "secret"),),
    (("authorization", "Bearer secret"), ("authorization", "Bearer secret")),
    (("authorization", "Bearer secret "),),
    (("authorization", "bearer secretx"),),
]


def test_without_the_token_nothing_is_done() -> None:
    """Every method of every service refuses, also a load; the right token serves."""
    with Worker(environment={"LOCALAI_GRPC_AUTH_TOKEN": "secret"}) as worker:
        load = pb.ModelOptions(Model=str(TINY_CHAT))
        for metadata in TOKENS:
            for path, streams in [*methods(), ("/grpc.health.v1.Health/Check", False), ("/no.Such/Method", False)]:
                kind = worker.channel.unary_stream if streams else worker.channel.unary_unary
                data = load.SerializeToString() if path.endswith("LoadModel") else b""
                assert code_of(kind(path), data, metadata) is grpc.StatusCode.UNAUTHENTICATED, (path, metadata)
        right = (("authorization", "Bearer secret"),)
        assert worker.stub.Health(EMPTY, timeout=60, metadata=right).message == b"OK"
        assert worker.info.Get(pb.InfoRequest(), timeout=60, metadata=right).model == ""  # no load happened
        assert worker.stub.LoadModel(load, timeout=60, metadata=right).success
        answer = finish(worker.stub.PredictStream(prompt(STORY, 3), metadata=right))
        assert answer.last.tokens == 3
        assert not any("secret" in line for line in worker.log.lines)


def test_reflection_tells_a_client_without_our_files_everything(worker: Worker) -> None:
    database = ProtoReflectionDescriptorDatabase(worker.channel)
    services = set(database.get_services())
    assert services >= {"backend.Backend", "backend.Info", "grpc.health.v1.Health"}
    file = database.FindFileContainingSymbol("backend.Backend")
    ours = {service.name: [method.name for method in service.method] for service in file.service}
    assert ours == {name: [m.name for m in service.methods] for name, service in pb.DESCRIPTOR.services_by_name.items()}


def test_the_log_has_no_word_of_what_was_said(worker: Worker) -> None:
    secret = "xyzzy-plugh"
    first = len(worker.log.lines)
    tools = json.dumps([{"type": "function", "function": {"name": secret, "parameters": {"type": "object"}}}])
    request = pb.PredictOptions(
        Messages=[pb.Message(role="user", content=secret)], UseTokenizerTemplate=True, Tokens=5, Tools=tools
    )
    stream(worker.stub, request)
    stream(worker.stub, prompt(secret, 5, StopPrompts=[secret]))
    stream(worker.stub, prompt(secret, 5, Tools=secret))
    stream(worker.stub, prompt(secret, 5, Grammar=f'root ::= ((( "{secret}"'))
    assert not [line for line in worker.log.lines[first:] if secret in line]
