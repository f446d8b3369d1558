"""No single request stops the worker: Health answers, others' tokens come, and the memory goes back."""

from typing import Any

import grpc
import psutil
import pytest

from tests.e2e.nasty import NASTY, Nasty
from tests.e2e.watching import Watch
from tests.e2e.worker import Worker, wait_until

# On a machine that others use as well; the benchmark of Health has the figures.
STOP_SECONDS = 1.5
MEMORY_BYTES = 160 << 20
QUICK = {"messages without end", "stop strings without end", "calls of a million values", "8 MiB of one letter"}


def send(worker: Worker, nasty: Nasty) -> tuple[Any, str]:
    """The answer's bytes, or what the refusal says."""
    call = worker.channel.unary_unary(f"/backend.Backend/{nasty.method}")
    data = nasty.data()
    with Watch(worker.address) as watch:
        try:
            answer, words = call(data, timeout=60), ""
        except grpc.RpcError as error:
            answer, words = b"", f"{error.code()} {error.details()}"
    assert max(watch.seen.health) < STOP_SECONDS
    assert max(watch.seen.gaps) < 2 * STOP_SECONDS
    return answer, words


@pytest.mark.parametrize(
    "nasty", [pytest.param(n, id=n.name, marks=() if n.name in QUICK else pytest.mark.slow) for n in NASTY]
)
def test_a_single_request_stops_nobody_and_leaves_nothing(worker: Worker, nasty: Nasty) -> None:
    process = psutil.Process(worker.pid)
    before = process.memory_info().rss
    answer, refusal = send(worker, nasty)
    assert nasty.words in refusal
    assert bool(answer) is not bool(nasty.words)
    assert "INTERNAL" not in refusal
    wait_until(lambda: process.memory_info().rss < before + MEMORY_BYTES, "memory goes back")
