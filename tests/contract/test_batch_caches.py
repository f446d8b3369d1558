"""mlx-lm's layer caches, as `backend/engine/batching` use them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)
from mlx_lm.utils import load_model

from backend.engine.kv.merging import merged
from tests.models import write_model

HEADS, WIDTH = 2, 4


def filled(length: int, seed: int) -> KVCache:
    """A row of `length` random tokens, longer than one allocation step where it can be."""
    cache = KVCache()
    for position in range(0, length, 100):
        n = min(100, length - position)
        keys = mx.random.normal((1, HEADS, n, WIDTH), key=mx.random.key(seed + position))
        cache.update_and_fetch(keys, -keys)
    return cache


def test_some_caches_cannot_be_merged() -> None:
    for kind in (QuantizedKVCache, ChunkedKVCache):
        assert not hasattr(kind, "merge")
    for kind in (KVCache, RotatingKVCache, ArraysCache, CacheList):
        assert hasattr(kind, "merge")


def test_a_rotating_cache_with_kept_tokens_does_not_merge_into_one_that_keeps_them() -> None:
    """Why `max_kv_size` is served one request at a time: the first tokens are kept by this class alone."""
    kept = RotatingKVCache(max_size=8, keep=4)
    keys = mx.arange(16, dtype=mx.float32).reshape(1, 1, 16, 1)
    for position in range(16):
        part = keys[:, :, position : position + 1]
        kept.update_and_fetch(part, part)
    assert sorted(np.array(kept.keys).ravel().tolist()) == [0, 1, 2, 3, 12, 13, 14, 15]
    merged = RotatingKVCache.merge([kept])
    for position in range(4):
        part = keys[:, :, position : position + 1] + 100
        merged.update_and_fetch(part, part)
    assert sorted(np.array(merged.keys).ravel().tolist()) == [12, 13, 14, 15, 100, 101, 102, 103]


def test_a_state_cache_gives_its_rows_back() -> None:
    one, two = ArraysCache(2), ArraysCache(2)
    for value, cache in enumerate((one, two)):
        cache[0], cache[1] = mx.full((1, 3), value), mx.full((1, 2, 2), 10 + value)
    batch = ArraysCache.merge([one, two])
    row = batch.extract(1)
    assert type(row) is ArraysCache
    assert np.array_equal(np.array(row[0]), np.array(two[0]))
    batch.extend(ArraysCache.merge([one]))
    batch.filter([2, 1])
    assert [batch[1][place, 0, 0].item() for place in range(2)] == [10, 11]
    assert batch.nbytes == 2 * (3 + 4) * batch[0].dtype.size


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., mx.array]:
    path: Path = write_model(tmp_path_factory.mktemp("llama") / "m", "llama")
    return load_model(path)[0]


def prefilled(model: Any, tokens: list[int]) -> list[Any]:
    caches = make_prompt_cache(model)
    model(mx.array([tokens]), cache=caches)
    return caches


def test_a_row_alone_is_the_same_merged_and_not(llama: Callable[..., mx.array]) -> None:
    """On the reference BLAS; that `DecodeBatch` leaves a lone row unmerged changes nothing."""
    tokens = [72, 101, 108, 108, 111]
    alone = prefilled(llama, tokens)
    together = [merged([cache]) for cache in prefilled(llama, tokens)]
    for token in (32, 119, 111):
        one, other = (np.array(llama(mx.array([[token]]), cache=caches)) for caches in (alone, together))
        assert np.array_equal(one, other)


def test_a_row_in_a_batch_is_the_row_alone(llama: Callable[..., mx.array]) -> None:
    prompts = [[72, 105], list(range(40, 90)), [65] * 7]
    alone = [prefilled(llama, tokens) for tokens in prompts]
    batch = [merged(layer) for layer in zip(*[prefilled(llama, p) for p in prompts], strict=True)]
    for step in range(3):
        together = np.array(llama(mx.array([[step + n] for n in range(3)]), cache=batch))
        for index, caches in enumerate(alone):
            assert np.array_equal(np.array(llama(mx.array([[step + index]]), cache=caches))[0], together[index])


def test_plain_models_have_one_kvcache_a_layer(llama: Any) -> None:
    assert [type(cache) for cache in make_prompt_cache(llama)] == [KVCache] * len(llama.layers)


@pytest.mark.parametrize("make", [lambda: filled(5, 1), lambda: window(5), lambda: state(5)])
def test_extend_gives_a_cache_new_arrays_and_never_writes_into_one(make: Callable[[], Any]) -> None:
    """A join that fails in one layer goes back to what a copy of the layer objects holds."""
    batch, late = make().merge([make(), make()]), make().merge([make()])
    before = copy.copy(batch)
    kept = [np.array(array) for array in _arrays(before)]
    batch.extend(late)
    mx.eval([*_arrays(batch), *_arrays(before)])
    assert batch is not before
    for array, expected in zip(_arrays(before), kept, strict=True):
        assert np.array_equal(np.array(array), expected)


def window(length: int) -> RotatingKVCache:
    """A row whose window has wrapped."""
    cache = RotatingKVCache(max_size=4)
    for position in range(length):
        keys = mx.full((1, HEADS, 1, WIDTH), position)
        cache.update_and_fetch(keys, -keys)
    return cache


def state(length: int) -> ArraysCache:
    """A row of one recurrent state."""
    cache = ArraysCache(1)
    cache[0] = mx.full((1, WIDTH), length)
    return cache


def _arrays(cache: Any) -> list[mx.array]:
    held = cache.cache if isinstance(cache, ArraysCache) else [cache.keys, cache.values, cache.offset]
    return [array for array in held if array is not None]
