"""Priorities over a real engine: who is answered first, and that nobody's answer changes by it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig, SamplerBackend
from backend.core.events import Delta, Failed, Finished
from backend.core.request import GenerationRequest, Sampling
from backend.engine.batching.standing import MOST_DISPLACED
from backend.engine.handle import EngineHandle
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

BYTES_PER_TOKEN = 512  # of qwen3's keys and values here
Model = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")

    def make(family: str) -> Path:
        return folder / family if (folder / family).exists() else write_model(folder / family, family)

    return make


def asking(name: str, *, n: int, priority: int = 0, length: int = 12) -> GenerationRequest:
    sampling = Sampling(temperature=1.0, repetition_penalty=1.1, seed=n, ignore_eos=True)
    return request(f"{name} asks " * length, n=n, name=name, sampling=sampling, priority=priority)


class Reader:
    """A request that is read as it is answered."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._changed = asyncio.Condition()

    @classmethod
    async def of(cls, handle: EngineHandle, wanted: GenerationRequest, ended: list[str] | None = None) -> "Reader":
        """Submitted: the engine takes requests in the order of these calls. `ended` gets its name at its end."""
        reader = cls()
        stream = await handle.submit(wanted)

        async def run() -> Answer:
            async for event in stream:
                async with reader._changed:
                    match event:
                        case Delta():
                            reader.answer.deltas.append(event)
                        case Finished():
                            reader.answer.end = event
                        case Failed(error=error):
                            reader.answer.error = error
                    reader._changed.notify_all()
            if ended is not None:
                ended.append(wanted.request_id)
            return reader.answer

        reader.task = asyncio.create_task(run())
        return reader

    task: "asyncio.Task[Answer]"

    async def more(self) -> None:
        """Wait for a further piece."""
        before = len(self.answer.deltas)
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.answer.deltas) > before or self.over)
        assert not self.over, "it has ended"

    @property
    def over(self) -> bool:
        """Whether its end is known."""
        return self.answer.end is not None or self.answer.error is not None


async def begun(handle: EngineHandle, *wanted: GenerationRequest) -> list[Reader]:
    """Requests that all decode."""
    readers = [await Reader.of(handle, item) for item in wanted]
    for reader in readers:
        await reader.more()
    return readers


def same(answers: list[Answer], path: Path, *wanted: GenerationRequest, sampler: SamplerBackend = "auto") -> None:
    """Bit for bit what each request is answered alone."""

    async def alone(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, item) for item in wanted]

    engine = EngineConfig(prefill_chunk=32, sampler=sampler)
    for ours, theirs in zip(answers, with_engine(model_config(path, engine=engine), alone), strict=True):
        assert ours.error is None, ours.error
        assert ours.logprobs == theirs.logprobs


@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        ("qwen3", "host"),
        pytest.param("qwen3_next", "device", marks=pytest.mark.slow),
        pytest.param("qwen3", "device", marks=pytest.mark.slow),
        pytest.param("qwen3_next", "host", marks=pytest.mark.slow),
    ],
)
def test_with_a_full_batch_a_higher_one_takes_a_row_which_goes_on_from_its_kv_to_the_same_answer(
    model: Model, family: str, sampler: SamplerBackend
) -> None:
    path = model(family)
    low = [asking("low", n=150, priority=-1), asking("lower", n=140, priority=-3)]
    high = asking("high", n=10, priority=2)

    async def body(handle: EngineHandle) -> tuple[list[Answer], dict[str, float], float]:
        running = await begun(handle, *low)
        first = await read(handle, high)
        assert not any(reader.over for reader in running)
        answers = [*[await reader.task for reader in running], first]
        return answers, await settled(handle), handle.figures().numbers["num_priority_preemptions"]

    engine = EngineConfig(prefill_chunk=32, max_rows=2, sampler=sampler)
    answers, queue, displaced = with_engine(model_config(path, engine=engine, cache=CacheConfig()), body)
    assert (queue["preemptions"], displaced) == (1, 1)
    # Of each prompt what was not cached but for its last token; and nothing of the answer that had to wait.
    usages = [answer.end.usage for answer in answers if answer.end is not None]
    assert queue["prefilled_tokens"] == sum(usage.prompt_tokens - 1 - usage.cached_tokens for usage in usages)
    same(answers, path, *low, high, sampler=sampler)


def test_a_prompt_that_is_being_prefilled_makes_way_too_and_goes_on_where_it_was(model: Model) -> None:
    low, high = asking("low", n=8, priority=-1, length=240), asking("high", n=4, priority=1)
    order: list[str] = []

    async def body(handle: EngineHandle) -> list[Answer]:
        first = await Reader.of(handle, low, order)
        while not handle.info().queue.get("prefilled_tokens"):
            await asyncio.sleep(0.002)
        second = await Reader.of(handle, high, order)
        answers = [await first.task, await second.task]
        queue = await settled(handle)
        assert queue["preemptions"] == 1
        prompts = [answer.end.usage.prompt_tokens for answer in answers if answer.end is not None]
        # But for the chunk that it was in the middle of.
        assert sum(prompts) - 2 <= queue["prefilled_tokens"] <= sum(prompts) + 32
        return answers

    engine = EngineConfig(prefill_chunk=32, max_rows=1)
    answers = with_engine(model_config(model("qwen3"), engine=engine, cache=CacheConfig()), body)
    assert order == ["high", "low"]
    same(answers, model("qwen3"), low, high)


def test_the_queue_goes_by_priority_and_equal_ones_as_they_came(model: Model) -> None:
    waiting = {"a": 0, "b": -2, "c": 3, "d": 0, "e": 3, "f": -2}
    order: list[str] = []

    async def body(handle: EngineHandle) -> None:
        # Nobody is above it, so its row stays.
        (running,) = await begun(handle, asking("first", n=200, priority=3))
        readers = [
            await Reader.of(handle, asking(name, n=2, priority=priority), order) for name, priority in waiting.items()
        ]
        assert not running.over
        await asyncio.gather(*(reader.task for reader in readers))
        assert (await settled(handle))["preemptions"] == 0

    with_engine(model_config(model("qwen3"), engine=EngineConfig(max_rows=1), cache=CacheConfig()), body)
    assert order == ["c", "e", "a", "d", "b", "f"]


def test_a_row_whose_request_came_long_before_stays(model: Model) -> None:
    ahead = [0.0]
    order: list[str] = []

    async def body(handle: EngineHandle) -> None:
        old = await Reader.of(handle, asking("old", n=200, priority=0), order)
        await old.more()
        ahead[0] = 61.0
        # Two levels are worth a minute, three are worth more.
        later = [await Reader.of(handle, asking(f"{level}", n=2, priority=level), order) for level in (2, 3)]
        await asyncio.gather(*(reader.task for reader in (old, *later)))
        assert (await settled(handle))["preemptions"] == 1

    config = model_config(model("qwen3"), engine=EngineConfig(max_rows=1), cache=CacheConfig())
    with_engine(config, body, clock=lambda: time.monotonic() + ahead[0])
    assert order == ["3", "old", "2"]


@pytest.mark.slow
def test_a_row_leaves_for_others_only_so_often(model: Model) -> None:
    low = asking("low", n=250, priority=-10)

    async def body(handle: EngineHandle) -> list[Answer]:
        (running,) = await begun(handle, low)
        for index in range(MOST_DISPLACED):
            await read(handle, asking(f"high {index}", n=2, priority=index))
            await running.more()
        await read(handle, asking("last", n=2, priority=10))
        assert running.over
        assert (await settled(handle))["preemptions"] == MOST_DISPLACED
        return [await running.task]

    config = model_config(model("qwen3"), engine=EngineConfig(max_rows=1, prefill_chunk=32), cache=CacheConfig())
    same(with_engine(config, body), model("qwen3"), low)


@pytest.mark.slow
def test_where_memory_is_short_only_as_many_leave_as_it_takes_and_none_for_nothing(model: Model) -> None:
    path = model("qwen3")
    low = [asking(f"low {index}", n=210 + index, priority=-1, length=2) for index in range(3)]
    high, huge = asking("high", n=4, priority=1, length=2), asking("huge", n=4, priority=1, length=200)

    async def body(handle: EngineHandle) -> list[Answer]:
        running = await begun(handle, *low)
        first = await read(handle, high)
        assert not any(reader.over for reader in running)
        refused = await read(handle, huge)
        assert refused.error is not None and "the budget is" in refused.error.message
        answers = [await reader.task for reader in running]
        assert (await settled(handle))["preemptions"] == 1
        return [*answers, first]

    # Three rows have room to their ends, in blocks of 256 tokens, and their copies; a fourth has not.
    engine = EngineConfig(prefill_chunk=32, kv_bytes=2 * BYTES_PER_TOKEN * 3 * 512)
    same(with_engine(model_config(path, engine=engine, cache=CacheConfig()), body), path, *low, high)


def test_under_strict_a_higher_one_is_next_and_takes_no_row(model: Model) -> None:
    order: list[str] = []

    async def body(handle: EngineHandle) -> None:
        first = await Reader.of(handle, asking("first", n=150, priority=-10), order)
        await first.more()
        later = [
            await Reader.of(handle, asking(name, n=2, priority=priority), order)
            for name, priority in (("low", 0), ("high", 10))
        ]
        await asyncio.gather(*(reader.task for reader in (first, *later)))
        assert (await settled(handle))["preemptions"] == 0

    config = model_config(model("qwen3"), engine=EngineConfig(isolation="strict"), cache=CacheConfig())
    with_engine(config, body)
    assert order == ["first", "high", "low"]
