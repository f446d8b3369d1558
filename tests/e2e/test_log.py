"""The log of a worker whose host does not read it."""

import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.worker import Log, Worker

STORY = "Once upon a time"
# One line of the log each.
FAILED_LOADS = 1500


class NeglectedLog(Log):
    """Read up to the line that says `ready`, then no more until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def read(self, stream: Iterable[str]) -> None:
        """As told."""
        super().read(self._as_told(stream))  # type: ignore[arg-type]

    def _as_told(self, stream: Iterable[str]) -> Iterator[str]:
        for line in stream:
            yield line
            if " ready " in line:
                self.go_on.wait(120)


def neglected() -> tuple[Worker, NeglectedLog]:
    """A worker, and its log that is not read."""
    worker, log = Worker("--grace", "1s"), NeglectedLog()
    worker.log = log
    return worker, log


def fill_the_log(worker: Worker) -> None:
    """Far more lines than the pipe and the worker's own store have room for, with a name that is long in itself."""
    for _ in range(FAILED_LOADS):
        assert not worker.load("/absent/" + "m" * 5000).success


@pytest.mark.slow
def test_a_host_that_does_not_read_the_log_stops_neither_health_nor_answers_nor_the_end() -> None:
    worker, log = neglected()
    with worker:
        worker.must_load()
        golden = stream(worker.stub, prompt(STORY, 20))
        with running(worker.stub, prompt(STORY, 6000, IgnoreEOS=True)) as (call,):
            fill_the_log(worker)
            assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
            assert stream(worker.stub, prompt(STORY, 20)).text == golden.text
            worker.signal(signal.SIGTERM)
            began = time.monotonic()
            assert finish(call).code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
            assert worker.wait(60) == 0
            assert time.monotonic() - began < 1 + 20
        log.go_on.set()


@pytest.mark.slow
def test_a_host_that_reads_again_learns_how_many_lines_it_missed_and_hears_the_last() -> None:
    worker, log = neglected()
    with worker:
        fill_the_log(worker)
        log.go_on.set()
        dropped = int(log.wait_for(r"log_lines_dropped count=(\d+)")[1])
        worker.signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        lines = log.whole()
    failed = [line for line in lines if " load_failed " in line]
    assert dropped > 0 and dropped + len(failed) >= FAILED_LOADS
    assert " stopping code=0 " in lines[-1]
    assert max(map(len, lines)) < 4096


@pytest.mark.slow
def test_a_name_of_megabytes_is_cut_in_the_log() -> None:
    with Worker() as worker:
        assert not worker.load("m" * (3 << 20)).success
        worker.signal(signal.SIGTERM)
        worker.wait(60)
        whole = "\n".join(worker.log.whole())
    assert re.search(r"load_failed model=m+\.\.\.\+\d+ ", whole)
    assert len(whole) < 20_000
