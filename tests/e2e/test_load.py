"""More clients than there is room for: every answer is right, or is refused for what is said."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice

import grpc
import pytest

from tests.e2e.asking import Answer, prompt
from tests.e2e.many import Known, known, vanish, wave
from tests.e2e.oracle import Golden
from tests.e2e.worker import TINY_CHAT, Worker

OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


def check(asked: Sequence[Known], answers: Sequence[Answer]) -> Counter[grpc.StatusCode]:
    """How many were answered and refused; each of them rightly."""
    for one, answer in zip(asked, answers, strict=True):
        if answer.code is EXHAUSTED:
            answer.refused(EXHAUSTED, "in flight")
        else:
            assert one.is_answered_by(answer), (answer.code, answer.details, answer.text, one.text)
    return Counter(answer.code for answer in answers)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_streams_at_once_are_all_answered_rightly(worker: Worker) -> None:
    """As many as the queue has room for, from eight connections."""
    asked = list(islice(cycle(known(worker, 24)), 1024))
    assert check(asked, asyncio.run(wave(worker.address, [one.request for one in asked], seconds=300))) == {OK: 1024}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_streams_over_a_small_queue_are_answered_rightly_or_refused(worker: Worker) -> None:
    """Twice, so that the second finds what the first has left."""
    worker.must_load(TINY_CHAT, "queue_size:200")
    asked = list(islice(cycle(known(worker, 24)), 1024))
    for _ in range(2):
        ends = check(asked, asyncio.run(wave(worker.address, [one.request for one in asked], seconds=300)))
        assert ends[OK] >= 232
        assert ends[EXHAUSTED] > 0
        worker.rest()


@pytest.mark.slow
def test_bursts_over_the_queue_are_answered_rightly_or_refused(worker: Worker) -> None:
    worker.must_load(TINY_CHAT, "max_rows:2", "queue_size:8")
    asked = known(worker, 6, tokens=20)
    refused = 0
    for _ in range(3):
        burst = list(islice(cycle(asked), 60))
        ends = check(burst, asyncio.run(wave(worker.address, [one.request for one in burst], connections=3)))
        assert ends[OK] >= 10
        refused += ends[EXHAUSTED]
    assert refused


def test_slow_readers_and_clients_that_vanish_beside_others(
    worker: Worker, standing_worker: tuple[Worker, Golden]
) -> None:
    """Whoever reads has what it asked for; whoever is gone is computed for no more (the oracle looks)."""
    asked = known(worker, 8, tokens=12)
    endless = prompt("word", 4000, IgnoreEOS=True)

    async def all_at_once() -> list[list[Answer]]:
        requests = [one.request for one in asked]
        slow, quick, left, _ = await asyncio.gather(
            wave(worker.address, requests * 2, pause=0.05, connections=4),
            wave(worker.address, requests),
            wave(worker.address, [endless] * 12, leave_after=3),
            vanish(worker.address, [endless] * 12),
        )
        return [slow, quick, left]

    before = worker.queue()["cancelled"]
    with standing_worker[1].beside(worker):
        slow, quick, left = asyncio.run(all_at_once())
    assert check(asked * 2, slow) == {OK: 16}
    assert check(asked, quick) == {OK: 8}
    assert {answer.code for answer in left} == {grpc.StatusCode.CANCELLED}
    worker.wait_for_queue(lambda queue: queue["in_flight"] == 0 and queue["cancelled"] >= before + 24)
