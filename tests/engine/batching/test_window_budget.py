"""Layers that see a window: what the budget counts for a row is what it takes, in its prompt and after."""

import re
from pathlib import Path

import mlx.core as mx
import pytest

from backend.config import EngineConfig
from backend.core.errors import Overloaded
from backend.core.request import Sampling
from backend.engine.batching.memory import MemoryBudget
from backend.engine.handle import EngineHandle
from backend.engine.kv import row_caches
from tests.engine.harness import model_config, read, request, with_engine
from tests.engine.loading.test_model import load
from tests.models import write_model

# Windows of 64 tokens; of llama4 in caches that grow by blocks of 256, which are more than the window.
FAMILIES = ("gemma3_text", "llama4")
# By family a chunk, a prompt's words, and KiB that are too few for them, and enough. A pass as on a GPU leaves far more
# than a window in any window's caches.
TIGHT = [
    ("llama4", 512, 120, (800, 1400)),
    pytest.param("gemma3_text", 2048, 420, (1500, 2400), marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("window", [64, 300, 1024])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_never_takes_more_than_is_counted_and_not_half_as_much(tmp_path: Path, family: str, window: int) -> None:
    name = "attention_chunk_size" if family == "llama4" else "sliding_window"
    loaded = load(write_model(tmp_path / "model", family, extra={name: window}))
    for chunk in (32, 128, 512, 2048):
        budget, caches, done, shares = MemoryBudget(1 << 40, loaded.kv_cost, chunk=chunk), loaded.new_cache(), 0, []
        # The last pass is a step of its own: it is what a row takes that decodes.
        for count in [chunk] * (2048 // chunk) + [1]:
            loaded.model(mx.ones((1, count), mx.int32), cache=caches)
            mx.eval([cache.state for cache in caches])
            done += count
            counted = budget.prefilling(done) if count > 1 else budget.projected(done)
            shares.append(row_caches.nbytes(caches) / counted)
        assert 0.5 < max(shares) <= 1 and shares[-1] > 0.5, (chunk, shares)


@pytest.mark.parametrize(("family", "chunk", "words", "tight"), TIGHT)
def test_what_was_admitted_alone_is_not_refused_on_its_way(
    tmp_path: Path, family: str, chunk: int, words: int, tight: tuple[int, int]
) -> None:
    path = write_model(tmp_path / "model", family)
    asked = request("word " * words, n=4, sampling=Sampling(ignore_eos=True))
    outcomes: list[bool] = []

    async def body(handle: EngineHandle) -> None:
        answer = await read(handle, asked)
        if isinstance(answer.error, Overloaded):
            needs, budget = map(int, re.findall(r"needs (\d+) bytes.*budget is (\d+)", answer.error.message)[0])
            assert needs > budget
        else:
            assert answer.end is not None, answer.error
        outcomes.append(answer.end is not None)

    for kilobytes in tight:
        with_engine(model_config(path, engine=EngineConfig(prefill_chunk=chunk, kv_bytes=kilobytes << 10)), body)
    assert outcomes == [False, True]
