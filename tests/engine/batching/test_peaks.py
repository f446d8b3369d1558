"""What is live, cached and copied stays within the budget at every moment, as MLX counts it."""

import asyncio
from pathlib import Path

import mlx.core as mx
import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.request import Sampling
from backend.engine.handle import EngineHandle
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

LAYERS = 24
# Keys and values of two heads of 16, as float32.
BYTES_PER_TOKEN = LAYERS * 2 * 2 * 16 * 4
BUDGET = 3_600 * BYTES_PER_TOKEN
# Activations of a chunk, logits, and what MLX rounds up: 5 % of the budget.
BESIDE = BUDGET // 20
ENDLESS = Sampling(ignore_eos=True)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", "device"])
def test_joins_leaves_growth_and_stores_stay_within_the_budget(tmp_path: Path, sampler: str) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3", layers=LAYERS, hidden=32)

    async def body(handle: EngineHandle) -> tuple[int, float]:
        await read(handle, request("first", n=2))
        await settled(handle)
        base = mx.get_active_memory()
        # First the cache is filled, so that whatever the rows take must be taken from it.
        for index in range(8):
            await read(handle, request(chr(ord("a") + index) * 240, n=1, sampling=ENDLESS))
        cached = (await settled(handle))["cached_kv_bytes"]
        mx.reset_peak_memory()

        async def arrive(index: int) -> Answer:
            await asyncio.sleep(0.03 * index)
            # Some grow past a block of 256 tokens together, some leave early.
            prompt = chr(ord("A") + index) * (245 - 5 * index)
            return await read(handle, request(prompt, n=(15, 40)[index % 2], sampling=ENDLESS))

        answers = await asyncio.gather(*(arrive(index) for index in range(6)))
        assert all(answer.error is None for answer in answers)
        return mx.get_peak_memory() - base, cached

    engine = EngineConfig(prefill_chunk=128, kv_bytes=BUDGET, sampler=sampler)  # type: ignore[arg-type]
    peak, cached = with_engine(model_config(path, engine=engine, cache=CacheConfig()), body)
    assert cached > 0.4 * BUDGET
    assert peak <= BUDGET + BESIDE
