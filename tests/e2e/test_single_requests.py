"""No single request stops the worker: Health answers, others' tokens come, and the memory goes back."""

from typing import Any

import grpc
import psutil
import pytest

from tests.e2e.nasty import NASTY, Nasty
from tests.e2e.watching import Watch
from tests.e2e.worker import Worker, wait_until

# Of any Health, and between two pieces of a neighbour's stream: several times what a quiet machine shows, of which the
# benchmark of Health has the figures. Other tests share the cores; their stalls do not come each time, the worker's do.
STOP_SECONDS = 0.3
ATTEMPTS = 4
MEMORY_BYTES = 64 << 20
LEVEL_BYTES = 16 << 20
QUICK = {"messages without end", "stop strings without end", "calls of a million values", "8 MiB of one letter"}
REPEATED = [*sorted(QUICK), "7 MiB of calls", "8 MiB of snow", "as many ids as may be"]


def answer_of(worker: Worker, nasty: Nasty) -> tuple[Any, str]:
    """The answer's bytes, or what the refusal says."""
    try:
        return worker.channel.unary_unary(f"/backend.Backend/{nasty.method}")(nasty.data(), timeout=60), ""
    except grpc.RpcError as error:
        return b"", f"{error.code()} {error.details()}"


def longest_stall(worker: Worker, nasty: Nasty) -> float:
    """Seconds that anybody else waited while the request was served."""
    with Watch(worker.address) as watch:
        answer, refusal = answer_of(worker, nasty)
    assert nasty.words in refusal
    assert bool(answer) is not bool(nasty.words)
    assert "INTERNAL" not in refusal
    return max(*watch.seen.health, *watch.seen.gaps)


@pytest.mark.parametrize(
    "nasty", [pytest.param(n, id=n.name, marks=() if n.name in QUICK else pytest.mark.slow) for n in NASTY]
)
def test_a_single_request_stops_nobody_and_leaves_nothing(worker: Worker, nasty: Nasty) -> None:
    process = psutil.Process(worker.pid)
    before = process.memory_info().rss
    stalls: list[float] = []
    while not stalls or stalls[-1] > STOP_SECONDS:
        assert len(stalls) < ATTEMPTS, stalls
        stalls.append(longest_stall(worker, nasty))
    wait_until(lambda: process.memory_info().rss < before + MEMORY_BYTES, "memory goes back")


@pytest.mark.slow
def test_the_same_requests_again_and_again_take_no_more_memory(worker: Worker) -> None:
    process = psutil.Process(worker.pid)
    repeated = [nasty for nasty in NASTY if nasty.name in REPEATED]

    def send_all(times: int) -> None:
        for nasty in repeated * times:
            answer_of(worker, nasty)

    send_all(4)
    level = process.memory_info().rss
    send_all(8)
    wait_until(lambda: process.memory_info().rss < level + LEVEL_BYTES, "memory has levelled off")
