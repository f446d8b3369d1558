"""What a clear takes from a directory that several models use: one tenant's, or every tenant's of the model it is."""

from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.request import Sampling
from backend.engine.handle import EngineHandle
from tests import chosen
from tests.engine.harness import model_config, read, request, settled, with_engine
from tests.models import write_model

TEXT = "A letter that was read once is kept for whoever asks, until somebody clears the archive. " * 5
FREE = Sampling(ignore_eos=True)


@pytest.mark.parametrize(
    ("codes", "whose", "left"),
    [
        ({}, None, ""),
        pytest.param({}, "alice", "bob", marks=pytest.mark.slow),
        pytest.param({"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 300}, None, "", marks=pytest.mark.slow),
    ],
)
def test_a_clear_leaves_what_other_models_have(
    tmp_path: Path, codes: dict[str, int], whose: str | None, left: str
) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3", extra={"head_dim": 32})

    def hits(chunk: int, clear: str | None = "nobody", kv: dict[str, int] | None = None) -> list[str]:
        """A process of the model with this chunk, which makes it another one: the tenants that hit, then a clear."""
        engine = EngineConfig(prefill_chunk=chunk, sampler=chosen.sampler, **(kv or {}))  # type: ignore[arg-type]

        async def body(handle: EngineHandle) -> list[str]:
            found: list[str] = []
            for tenant in ("alice", "bob"):
                answer = await read(handle, request(TEXT, n=1, sampling=FREE, tenant=tenant, keep_as="name"))
                assert answer.end is not None
                found += [tenant] if answer.end.usage.cached_tokens else []
            await settled(handle)
            await handle.clear_cache(clear)
            return found

        cache = CacheConfig(directory=str(tmp_path / "kv"))
        return with_engine(model_config(path, engine=engine, cache=cache), body)

    assert hits(128) == hits(64, kv=codes) == []
    assert hits(64, whose, codes) == ["alice", "bob"]
    assert hits(64, kv=codes) == ([left] if left else [])
    assert hits(128) == ["alice", "bob"]
