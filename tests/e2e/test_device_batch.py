"""The batch for GPUs behind the wire: it answers what the batch for CPUs answers."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.e2e.asking import Answer, prompt, stream
from tests.e2e.worker import TINY_CHAT, Worker

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"Temperature": 0.8, "TopK": 20, "TopP": 0.9, "Seed": 3},
    {"Temperature": 1.0, "Seed": 4, "Logprobs": 2},
    {"Temperature": 0.7, "TopP": 0.9, "Penalty": 1.2, "Seed": 5},
    {"Grammar": 'root ::= "yes" | "no"'},
    {"Temperature": 1.0, "MinP": 0.05, "IgnoreEOS": True, "Seed": 6},
)


def answers(worker: Worker, sampler: str) -> list[Answer]:
    """All at once, of different lengths, so that one after the other leaves and the last is alone."""
    worker.must_load(TINY_CHAT, f"sampler:{sampler}", "warm_up:on", "max_rows:4")
    wanted = [prompt("Once upon a time", 8 + 6 * index, **one) for index, one in enumerate(SETTINGS)]
    with ThreadPoolExecutor(len(wanted)) as pool:
        return list(pool.map(lambda request: stream(worker.stub, request), wanted))


@pytest.mark.slow
def test_it_answers_as_the_other_does_and_is_warm_before_it_serves(another_worker: Worker) -> None:
    before = len(another_worker.log.lines)
    on_device, on_host = answers(another_worker, "device"), answers(another_worker, "host")
    assert sum("sampler_warm_up" in line for line in another_worker.log.lines[before:]) == 2
    assert all(answer.code is grpc.StatusCode.OK for answer in on_device)
    assert [answer.text for answer in on_device] == [answer.text for answer in on_host]
    assert len({answer.text for answer in on_device}) > 3
