"""A row whose state does not go with the others' decodes by itself; the others never notice."""

import asyncio
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache

from backend.engine.batching.batch import _merge
from backend.engine.handle import EngineHandle
from tests.architectures import catalogue
from tests.engine.harness import Answer, model_config, read, request, with_engine


@pytest.mark.slow
def test_prompts_of_two_and_three_tokens_join_rows_whose_state_is_longer(tmp_path: Path) -> None:
    path = catalogue.write(tmp_path / "longcat_flash_ngram", "longcat_flash_ngram")
    wanted = [request(text, n=24) for text in ("a long prompt", "ab", "another long one", "abc", "a", "xy")]

    async def body(handle: EngineHandle) -> tuple[list[Answer], list[Answer]]:
        async def arrive(place: int) -> Answer:
            for _ in range(place):
                await asyncio.sleep(0.01)
            return await read(handle, wanted[place])

        crowd = list(await asyncio.gather(*(arrive(place) for place in range(len(wanted)))))
        return crowd, [await read(handle, item) for item in wanted]

    crowd, alone = with_engine(model_config(path), body)
    assert [answer.error for answer in crowd] == [None] * len(wanted)
    for ours, theirs in zip(crowd, alone, strict=True):
        assert ours.logprobs == theirs.logprobs


def _state(tokens: int) -> ArraysCache:
    cache = ArraysCache(1)
    cache[0] = mx.arange(tokens)[None]
    return cache


@pytest.mark.parametrize("lengths", [(3, 1), (1, 3), (3, 2)])
def test_states_of_unlike_shapes_are_never_merged(lengths: tuple[int, int]) -> None:
    # mlx-lm would stretch one token over the places of three without a word.
    for layer in (_state, lambda tokens: CacheList(KVCache(), _state(tokens))):
        with pytest.raises(ValueError, match="unlike shapes"):
            _merge([[layer(tokens)] for tokens in lengths])
