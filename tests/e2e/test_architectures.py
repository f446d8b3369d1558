"""Architectures of mlx-lm in a spawned worker, other ones each day: loaded, asked in a crowd, and asked again."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.architectures import catalogue
from tests.architectures.findings import EXPECTED_REFUSALS
from tests.e2e.asking import Answer, prompt, read
from tests.e2e.test_families import assert_same
from tests.e2e.worker import CHANNEL_OPTIONS, Worker

HANDFUL = 5
PROMPTS = ("a", "ab", "abc", "a prompt that goes on for more than one window of a small model, and a bit further still")


def of_the_day(modules: Sequence[str], day: int) -> list[str]:
    """A handful of modules; in a month of days each has had its turn."""
    start = day * HANDFUL % len(modules)
    return [modules[(start + place) % len(modules)] for place in range(HANDFUL)]


RUNNABLE = [name for name in catalogue.modules() if name not in EXPECTED_REFUSALS]
TODAY = of_the_day(RUNNABLE, dt.date.today().toordinal())


def test_every_architecture_has_its_day() -> None:
    days = range(-(-len(RUNNABLE) // HANDFUL))
    assert {name for day in days for name in of_the_day(RUNNABLE, day)} == set(RUNNABLE)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("deepseek_v41", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.slow, id=f"today-{name}") for name in TODAY),
    ],
)
def test_an_architecture_answers_in_a_crowd_and_from_the_cache_as_alone(
    worker: Worker, module: str, tmp_path: Path
) -> None:
    path = catalogue.write(tmp_path / module, module)
    wanted = [prompt(text, 12, Logprobs=5, TopLogprobs=5) for text in PROMPTS]

    async def ask() -> tuple[list[Answer], list[Answer]]:
        async with grpc.aio.insecure_channel(worker.address, options=CHANNEL_OPTIONS) as channel:
            stub: Any = rpc.BackendStub(channel)
            crowd = list(await asyncio.gather(*(read(stub, request) for request in wanted)))
            return crowd, [await read(stub, request) for request in wanted]

    worker.must_load(path, "prompt_cache_size:0", "prefill_chunk:32")
    _, cold = asyncio.run(ask())
    worker.must_load(path, "prefill_chunk:32")
    crowd, again = asyncio.run(ask())
    for ours, theirs in zip((*crowd, *again), (*cold, *cold), strict=True):
        assert ours.code == grpc.StatusCode.OK
        assert_same(ours, theirs, 2e-3)
    info = worker.info.Get(pb.InfoRequest(), timeout=60)
    assert info.queue["cached_tokens"] > 0 or info.details["uncached_reason"]


@pytest.mark.slow
def test_a_module_that_ends_its_process_is_refused_and_the_worker_goes_on(worker: Worker, tmp_path: Path) -> None:
    path = catalogue.write(tmp_path / "olmo", catalogue.ENDS_THE_PROCESS)
    result = worker.load(path)
    assert not result.success
    assert "wants to end the process" in result.message
    worker.must_load()
