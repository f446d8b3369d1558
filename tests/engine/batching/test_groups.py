"""Rows of like length decode together; a long one among short ones gets a batch of its own."""

import asyncio
from pathlib import Path

from backend.config import EngineConfig
from backend.engine.batching.groups import padding
from backend.engine.handle import EngineHandle
from tests.engine.faulty import FaultyModel
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.models import write_model

BYTES_PER_TOKEN = 512


def test_padding_is_what_the_newcomer_lacks_or_what_it_makes_the_others_lack() -> None:
    assert padding([], 100) == 0
    assert padding([100, 40], 30) == 70
    assert padding([100, 40], 130) == 60


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
