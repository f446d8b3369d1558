"""An answer never depends on who else is being served: logprobs are compared, since tokens hide small errors."""

import asyncio
import random
from pathlib import Path

import pytest

from backend.config import EngineConfig
from backend.core.request import GenerationRequest, Sampling
from backend.engine.handle import EngineHandle
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.models import QUICK_FAMILIES, write_model
from tests.rounding import tolerance
from tests.tiers import families_by_batch

CHUNK = 32


def schedule(seed: int, count: int) -> list[GenerationRequest]:
    """Requests of mixed lengths and settings; some share beginnings."""
    rng = random.Random(seed)
    shared = "".join(rng.choices("abcdefgh ", k=70))
    made: list[GenerationRequest] = []
    for index in range(count):
        own = "".join(rng.choices("abcdefghijklmnop ,.", k=rng.choice((1, 5, 30, 31, 32, 33, 64, 100, 150))))
        sampling = Sampling()
        if index % 3:
            sampling = Sampling(
                temperature=rng.choice((0.7, 1.0, 1.3)),
                top_k=rng.choice((None, 5, 40)),
                top_p=rng.choice((1.0, 0.9)),
                min_p=rng.choice((0.0, 0.05)),
                repetition_penalty=rng.choice((1.0, 1.2)),
                presence_penalty=rng.choice((0.0, 0.5)),
                seed=rng.randrange(-(2**31), 2**31),
            )
        prompt = shared + own if index % 4 == 0 else own
        made.append(request(prompt, n=rng.randrange(4, 24), name=f"q{index}", sampling=sampling))
    return made


async def together(engine: EngineHandle, wanted: list[GenerationRequest], seed: int) -> list[Answer]:
    """All at once, arriving at random; every fifth is cancelled midway by another client asking the same."""
    rng = random.Random(seed)

    async def one(index: int, item: GenerationRequest) -> Answer:
        for _ in range(rng.randrange(40)):
            await asyncio.sleep(0.002)
        if index % 5 == 4:
            await read(engine, item, cancel_after=2)
        return await read(engine, item)

    return list(await asyncio.gather(*(one(index, item) for index, item in enumerate(wanted))))


def assert_same(together: Answer, alone: Answer, within: float) -> None:
    if within == 0.0:
        assert together.logprobs == alone.logprobs
        assert together.text == alone.text
        return
    for ours, theirs in zip(together.logprobs, alone.logprobs, strict=True):
        assert ours.id == theirs.id
        assert abs(ours.logprob - theirs.logprob) <= within


@pytest.mark.parametrize(
    ("family", "sampler"),
    families_by_batch([*((family, "host") for family in QUICK_FAMILIES if family != "qwen3"), ("qwen3", "device")]),
)
def test_answers_in_a_crowd_equal_answers_alone(family: str, sampler: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / family, family)
    engine = EngineConfig(prefill_chunk=CHUNK, max_rows=6, sampler=sampler)  # type: ignore[arg-type]
    wanted = schedule(3, 16)

    async def body(handle: EngineHandle) -> tuple[list[Answer], list[Answer], float]:
        crowd = await together(handle, wanted, 5)
        queue = handle.info().queue
        alone = [await read(handle, item) for item in wanted]
        rows = queue["generated_tokens"] / queue["decode_steps"]
        return crowd, alone, rows if handle.info().mode == "batched" else 2.0

    crowd, alone, rows_a_step = with_engine(model_config(path, engine=engine), body)
    assert rows_a_step > 1.5
    assert all(answer.error is None for answer in (*crowd, *alone))
    for ours, theirs in zip(crowd, alone, strict=True):
        assert_same(ours, theirs, tolerance(family))
