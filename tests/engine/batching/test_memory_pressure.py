"""Under a small budget: the cache gives way, rows come back, answers stay the same, and nothing grows past it."""

import asyncio
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import ModelLoadFailed, Overloaded
from backend.core.request import Sampling
from backend.engine.handle import EngineHandle
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

# Keys and values; a budget is twice what rows may take, for both layers may exist twice while they are copied.
BYTES_PER_TOKEN = 512
ENDLESS = Sampling(ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", pytest.param("device", marks=pytest.mark.exhaustive)])
def test_preempted_rows_come_back_with_the_same_answers(path: Path, sampler: str) -> None:
    wanted = [
        request(
            f"{i} budget " * 12,
            n=450,
            sampling=Sampling(temperature=1.0, repetition_penalty=1.1, seed=i, ignore_eos=True),
        )
        for i in range(6)
    ]

    async def crowd(handle: EngineHandle) -> tuple[list[Answer], float]:
        async def leaves(index: int) -> None:
            # A neighbour that leaves makes room between two rounds: a preempted row can return at once.
            await read(handle, request(f"leaves {index} " * 12, n=450, sampling=ENDLESS), cancel_after=40 + 25 * index)

        answers = asyncio.gather(*(read(handle, item) for item in wanted))
        await asyncio.gather(*(leaves(index) for index in range(3)))
        answered = await answers
        # Each asked the prompt cache once, however often it came back.
        assert handle.info().cache["fetches"] == len(wanted) + 3
        return answered, handle.info().queue["preemptions"]

    async def alone(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, item) for item in wanted]

    tight = EngineConfig(prefill_chunk=32, kv_bytes=2 * BYTES_PER_TOKEN * 2048, sampler=sampler)  # type: ignore[arg-type]
    answers, preemptions = with_engine(model_config(path, engine=tight, cache=CacheConfig()), crowd)
    roomy = EngineConfig(prefill_chunk=32, sampler=sampler)  # type: ignore[arg-type]
    assert preemptions > 0
    for ours, theirs in zip(answers, with_engine(model_config(path, engine=roomy), alone), strict=True):
        assert ours.error is None, ours.error
        assert ours.logprobs == theirs.logprobs


def test_a_lone_row_makes_the_cache_give_way_and_ends_when_it_outgrows_the_budget(path: Path) -> None:
    budget = 2 * BYTES_PER_TOKEN * 1024

    async def body(handle: EngineHandle) -> None:
        for index in range(3):
            await read(handle, request(f"{index} filler " * 25, n=2))
        answer = asyncio.create_task(read(handle, request("x", n=3000, sampling=ENDLESS)))
        peak = 0.0
        while not answer.done():
            queue = handle.info().queue
            peak = max(peak, queue["live_kv_bytes"] + queue["cached_kv_bytes"])
            await asyncio.sleep(0.005)
        assert isinstance((await answer).error, Overloaded)
        assert peak <= budget
        assert (await read(handle, request("y", n=5))).error is None

    config = model_config(path, engine=EngineConfig(prefill_chunk=32, kv_bytes=budget), cache=CacheConfig())
    with_engine(config, body)


def test_admission_makes_the_cache_give_way_first_and_the_rows_own_prefix_last(path: Path) -> None:
    prompts = [f"{index} conversation " * 13 for index in range(3)]

    async def body(handle: EngineHandle) -> None:
        for prompt in prompts:
            await read(handle, request(prompt, n=2))
        before = (await settled(handle))["cached_kv_bytes"]
        longer = await read(handle, request(prompts[0] + "and so on, " * 30, n=2))
        assert longer.end is not None and longer.end.usage.cached_tokens == len(prompts[0])
        assert before > 3 * len(prompts[0]) * BYTES_PER_TOKEN

    # Three of 195 tokens are stored beside rows that are projected at 512, and may exist twice. One of 525 is projected
    # at 1,024, which leaves room for two of the three: the one that it continues is the oldest.
    engine = EngineConfig(prefill_chunk=32, kv_bytes=BYTES_PER_TOKEN * (2 * 1024 + 450))
    with_engine(model_config(path, engine=engine, cache=CacheConfig()), body)


def test_a_budget_of_nothing_is_refused_with_its_name_and_not_taken_as_none_given(path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="kv_bytes gives 0 bytes"):
            await handle.load(model_config(path, engine=EngineConfig(kv_bytes=0)))

    with_engine(None, body)


@pytest.mark.slow
def test_padding_sends_no_row_back_that_fits_without_it(path: Path) -> None:
    shorter = [chr(ord("a") + index) * 640 for index in range(15)]

    async def body(handle: EngineHandle) -> None:
        long = asyncio.create_task(read(handle, request("L" * 900, n=400, sampling=ENDLESS)))
        while not handle.info().queue.get("decoding"):
            await asyncio.sleep(0.002)
        answers = await asyncio.gather(*(read(handle, request(p, n=100, sampling=ENDLESS)) for p in shorter), long)
        assert all(answer.error is None for answer in answers)
        assert handle.info().queue["preemptions"] == 0

    # All sixteen fit, each in blocks of 256 tokens; padded to the longest they would need 20,000 tokens.
    engine = EngineConfig(prefill_chunk=512, kv_bytes=2 * BYTES_PER_TOKEN * 17_000)
    with_engine(model_config(path, engine=engine), body)


@pytest.mark.slow
def test_a_row_that_was_sent_back_returns_once_and_not_round_after_round(path: Path) -> None:
    async def body(handle: EngineHandle) -> float:
        wanted = [request(chr(ord("a") + index) * 200, n=400, sampling=ENDLESS) for index in range(4)]
        answers = await asyncio.gather(*(read(handle, item) for item in wanted))
        assert all(answer.error is None for answer in answers)
        return handle.info().queue["preemptions"]

    # Three of the four have room to their ends, at 600 tokens in blocks of 256; the fourth has not until one ends.
    engine = EngineConfig(prefill_chunk=256, kv_bytes=2 * BYTES_PER_TOKEN * 2330)
    preemptions = with_engine(model_config(path, engine=engine, cache=CacheConfig()), body)
    assert 1 <= preemptions <= 3
