"""Signals at odd moments, and streams of gRPC's own services that are open when one comes."""

import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.oracle import check_log
from tests.e2e.worker import ROOT, Worker, wait_until

COMMAND = (sys.executable, "-m", "backend", "--addr", "127.0.0.1:0", "--blas", "reference")


@contextmanager
def starting(*, blocked: frozenset[signal.Signals] = frozenset()) -> Generator[subprocess.Popen[str]]:
    """A worker of which nothing is awaited yet."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # a child inherits it
    try:
        process = subprocess.Popen(COMMAND, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def handles(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows which signals a process handles")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_before_the_worker_serves_is_no_crash(number: signal.Signals) -> None:
    with starting() as process:
        wait_until(lambda: handles(process, number), "the first handler")
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "ready" not in process.stderr.read()


def test_signals_that_the_host_had_blocked_stop_the_worker() -> None:
    with starting(blocked=frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})) as process:
        assert process.stderr is not None
        assert any("ready" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_streams_of_grpcs_own_services_end_with_the_worker_and_without_a_traceback() -> None:
    leaving = threading.Event()

    def asks() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        leaving.wait(60)

    with Worker() as worker:
        health: Any = health_pb2_grpc.HealthStub(worker.channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
        services = ["", "backend.Backend", "no.such.Service"] * 4
        calls = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in services]
        calls.append(reflection.ServerReflectionInfo(asks()))
        for call in calls:
            next(call)
        worker.signal(signal.SIGTERM)
        for call in calls:
            with pytest.raises(grpc.RpcError) as ended:
                for _ in call:
                    pass
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        leaving.set()
        assert worker.wait(60) == 0
    check_log(worker)
    assert not [line for line in worker.log.whole() if "level=error" in line]
