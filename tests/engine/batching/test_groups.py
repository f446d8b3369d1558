"""Rows of like length decode together; a long one among short ones gets a batch of its own."""

import asyncio
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from backend.config import EngineConfig
from backend.core.errors import InternalFault
from backend.core.request import Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.groups import padding
from backend.engine.handle import EngineHandle
from tests.engine.faulty import FaultyModel
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.engine.test_exactness import assert_same
from tests.engine.test_foreign_exits import exit_in
from tests.models import QUICK_FAMILIES, write_model
from tests.rounding import tolerance

BYTES_PER_TOKEN = 512


def test_padding_is_what_all_rows_lack_to_the_longest() -> None:
    assert padding([]) == padding([100]) == 0
    assert padding([100, 40, 30]) == 130


def test_a_long_row_does_not_pad_the_short_ones_and_no_answer_changes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3")
    short = [request(f"{index} short", n=40) for index in range(5)]
    long = [request(f"{index} long " * 250, n=30) for index in range(2)]
    model = FaultyModel()
    peak = [0.0]

    async def crowd(handle: EngineHandle) -> list[Answer]:
        running = asyncio.gather(*(read(handle, item) for item in (*short, *long)))
        while not running.done():
            peak[0] = max(peak[0], handle.info().queue["live_kv_bytes"])
            await asyncio.sleep(0.002)
        return await running

    async def alone(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, item) for item in (*short, *long)]

    config = model_config(path, engine=EngineConfig(prefill_chunk=256))
    together = with_engine(config, crowd, load=model.load)
    shapes = {rows for rows, tokens in model.calls if tokens == 1}
    assert 5 in shapes and 2 in shapes and 7 not in shapes
    # Two rows of 1,750 tokens and five of 50, in blocks of 256; padded to the longest they would be 7 x 2,048.
    assert peak[0] < (2 * 2560 + 5 * 512) * BYTES_PER_TOKEN
    for ours, theirs in zip(together, with_engine(config, alone), strict=True):
        assert ours.logprobs == theirs.logprobs


# Keys and values a token, of the layers that keep all.
PER_TOKEN = {"qwen3": 512, "gemma3_text": 256, "qwen3_next": 256}
# Differs in the last bits: a sliding window that has wrapped is summed in another order.
# Padding of 400 tokens is allowed: the third is 450 shorter than the first, and 100 shorter than the second.
LENGTHS = (1500, 1150, 1050)
BUDGET_TOKENS = 32 * 400


PLAIN = Sampling(ignore_eos=True)
VARIED = Sampling(temperature=1.0, repetition_penalty=1.1, seed=3, ignore_eos=True)
WANTED = [
    request(letter * length, n=n, sampling=sampling)
    for letter, length, n, sampling in zip("lms", LENGTHS, (150, 260, 260), (PLAIN, VARIED, PLAIN), strict=True)
]


async def one_after_another(handle: EngineHandle, all_decode: Callable[[], None] = lambda: None) -> list[Answer]:
    """Each comes when those before it decode, so that they meet in this order; `all_decode` is called when they do."""
    running: list[asyncio.Task[Answer]] = []
    for item in WANTED:
        running.append(asyncio.create_task(read(handle, item)))
        while handle.info().queue.get("decoding", 0) < len(running):
            assert not running[0].done(), "the first has ended before the others came"
            await asyncio.sleep(0.001)
    all_decode()
    return list(await asyncio.gather(*running))


async def alone(handle: EngineHandle) -> list[Answer]:
    return [await read(handle, item) for item in WANTED]


def engine(family: str, sampler: str) -> EngineConfig:
    return EngineConfig(prefill_chunk=512, kv_bytes=BUDGET_TOKENS * PER_TOKEN[family], sampler=sampler)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        ("qwen3", "host"),
        *(pytest.param(family, "host", marks=pytest.mark.slow) for family in QUICK_FAMILIES if family != "qwen3"),
        *(pytest.param(family, "device", marks=pytest.mark.slow) for family in QUICK_FAMILIES),
    ],
)
def test_groups_that_are_alike_again_decode_as_one_and_no_answer_changes(
    tmp_path: Path, family: str, sampler: str
) -> None:
    path = write_model(tmp_path / family, family)
    model = FaultyModel()
    together = with_engine(model_config(path, engine=engine(family, sampler)), one_after_another, load=model.load)
    steps = [rows for rows, tokens in model.calls if tokens == 1]
    # Two rows and one beside them, then one and one, then two again for the rest.
    assert 3 not in steps
    assert max(len(list(run)) for rows, run in groupby(steps) if rows == 2) > 60
    roomy = EngineConfig(prefill_chunk=512, sampler=sampler)  # type: ignore[arg-type]
    for ours, theirs in zip(together, with_engine(model_config(path, engine=roomy), alone), strict=True):
        assert_same(ours, theirs, tolerance(family))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", "device"])
@pytest.mark.parametrize(
    ("name", "calls", "lost"), [("view", range(1), 1), ("join", range(1), 0), ("join", range(2), 0)]
)
def test_groups_that_cannot_be_merged_cost_no_more_than_the_one_that_was_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, calls: range, lost: int, sampler: str
) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3")
    made: list[list[int]] = []

    async def crowd(handle: EngineHandle) -> list[Answer]:
        return await one_after_another(handle, lambda: made.append(exit_in(monkeypatch, DecodeBatch, name, calls)))

    # On a busy machine the first row may end before anybody sees that all decode.
    for _ in range(5):
        together = with_engine(model_config(path, engine=engine("qwen3", sampler)), crowd)
        monkeypatch.undo()
        if made[-1][0] > calls[-1]:
            break
    assert made[-1][0] > calls[-1], "nothing was merged"
    assert [type(answer.error) for answer in together if answer.error is not None] == [InternalFault] * lost
    for ours, theirs in zip(
        together, with_engine(model_config(path, engine=engine("qwen3", sampler)), alone), strict=True
    ):
        assert ours.error is not None or ours.logprobs == theirs.logprobs
