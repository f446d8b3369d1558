"""Rows leave a batch and are taken out of it without a wait."""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from backend.check.counting import launches_of
from backend.engine.kv.merging import alone, merged
from backend.engine.kv.row_caches import own_cache, row_cache, separable

LENGTHS = [7, 3, 5]


def filled(length: int, seed: int) -> KVCache:
    cache = KVCache()
    generator = np.random.default_rng(seed)
    cache.update_and_fetch(*(mx.array(generator.standard_normal((1, 2, length, 4))) for _ in range(2)))
    return cache


def batch() -> Any:
    return merged([filled(length, seed) for seed, length in enumerate(LENGTHS)])


def test_neither_waits_for_the_device() -> None:
    ours = batch()
    mx.eval(ours.state)
    # Lazy, as they are while a step runs.
    ours.keys, ours.values, ours.offset = ours.keys + 0, ours.values + 0, ours.offset + 0
    arrays = [ours.keys, ours.values, ours.offset]
    row_cache(CacheList(ours), 1)
    CacheList(ours).filter([1, 2])
    assert all(launches_of(array) == {"Add": 1} for array in arrays)


def test_only_layers_of_known_classes_are_separable() -> None:
    state = ArraysCache(2)
    assert not separable([state])
    state[0] = state[1] = mx.zeros((2, 4))
    window = merged([RotatingKVCache(8) for _ in range(2)])
    assert separable([batch(), window, CacheList(state, batch())])
    assert not separable([batch(), CacheList(KVCache())])


def test_what_decodes_alone_is_given_back_as_mlx_lms() -> None:
    window = RotatingKVCache(4)
    keys = mx.arange(24, dtype=mx.float32).reshape(1, 1, 6, 4)
    window.update_and_fetch(keys, keys)
    pair = CacheList(alone(window), filled(3, 0))
    own = own_cache(pair)
    assert [type(cache) for cache in own.caches] == [RotatingKVCache, KVCache]
    assert (own[0].offset, own[0]._idx) == (6, 4)
    assert np.array_equal(np.array(own[0].keys), np.array(keys[:, :, 2:]))
