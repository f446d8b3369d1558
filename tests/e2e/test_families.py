"""Models of every kind of cache, each in a spawned worker: an answer is the same whoever else is served."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.asking import Answer, prompt, read
from tests.e2e.worker import CHANNEL_OPTIONS, Worker
from tests.rounding import tolerance

# Plain KV, sliding windows (two ways), gated delta, attention with Mamba, Mamba alone, experts, and one whose
# caches cannot be merged.
FAMILIES = ("qwen3", "gemma3_text", "gpt_oss", "qwen3_next", "jamba", "mamba2", "qwen3_moe", "llama4")
REQUESTS = 64


def schedule(seed: int) -> list[pb.PredictOptions]:
    """Greedy and seeded requests of mixed lengths; every fourth begins as others do."""
    rng = random.Random(seed)
    shared = "".join(rng.choices("abcdefgh ", k=70))
    made: list[pb.PredictOptions] = []
    for index in range(REQUESTS):
        own = "".join(rng.choices("abcdefghijklmnop ,.", k=rng.choice((1, 5, 31, 32, 33, 64, 100, 150))))
        request = prompt(shared + own if index % 4 == 0 else own, rng.randrange(2, 20), Logprobs=5, TopLogprobs=5)
        if index % 3:
            request.Temperature = rng.choice((0.7, 1.0, 1.3))
            request.TopK = rng.choice((0, 5, 40))
            request.TopP = rng.choice((1.0, 0.9))
            request.MinP = rng.choice((0.0, 0.05))
            request.Penalty = rng.choice((1.0, 1.2))
            request.PresencePenalty = rng.choice((0.0, 0.5))
            request.Seed = rng.randrange(-(2**31), 2**31)
        made.append(request)
    return made


async def in_a_crowd(stub: Any, wanted: list[pb.PredictOptions], seed: int) -> list[Answer]:
    """All of them, arriving at random; every fifth is asked by another client too, who leaves."""
    rng = random.Random(seed)
    waits = [rng.random() * 0.5 for _ in wanted]

    async def one(index: int) -> Answer:
        await asyncio.sleep(waits[index])  # when it arrives, not what it waits for
        if index % 5 == 4:
            await read(stub, wanted[index], leave_after=1)
        return await read(stub, wanted[index])

    return list(await asyncio.gather(*(one(index) for index in range(len(wanted)))))


def assert_same(crowd: Answer, alone: Answer, within: float) -> None:
    assert (crowd.text, crowd.reason) == (alone.text, alone.reason)
    if within == 0.0:
        assert crowd.last.logprobs == alone.last.logprobs
        return
    assert crowd.tokens == alone.tokens
    for ours, theirs in zip(crowd.logprobs, alone.logprobs, strict=True):
        assert abs(ours["logprob"] - theirs["logprob"]) <= within


OFTEN = ("gpt_oss", "qwen3_next", "llama4")


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow if f in OFTEN else pytest.mark.exhaustive) for f in FAMILIES]
)
def test_an_answer_in_a_crowd_is_the_answer_alone(
    worker: Worker, random_model: Callable[..., Path], family: str
) -> None:
    options = ("prompt_cache_size:0", "prefill_chunk:32", "max_rows:8")
    worker.must_load(random_model(family), *options)
    wanted = schedule(3)

    async def ask() -> tuple[list[Answer], list[Answer], dict[str, float]]:
        async with grpc.aio.insecure_channel(worker.address, options=CHANNEL_OPTIONS) as channel:
            stub = rpc.BackendStub(channel)
            crowd = await in_a_crowd(stub, wanted, 5)
            figures = dict((await rpc.InfoStub(channel).Get(pb.InfoRequest())).queue)
            return crowd, [await read(stub, request) for request in wanted], figures

    crowd, alone, figures = asyncio.run(ask())
    assert {answer.code for answer in (*crowd, *alone)} == {grpc.StatusCode.OK}
    info = worker.info.Get(pb.InfoRequest(), timeout=60)
    assert info.mode == ("serial" if family == "llama4" else "batched")
    if info.mode == "batched":
        assert figures["generated_tokens"] / figures["decode_steps"] > 2  # rows did run together
    for ours, theirs in zip(crowd, alone, strict=True):
        assert_same(ours, theirs, tolerance(family))
