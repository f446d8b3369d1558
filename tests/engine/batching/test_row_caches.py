"""Rows leave a batch and are taken out of it without a wait, and as mlx-lm's own `filter` and `extract` would."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList, KVCache, RotatingKVCache

from backend.check.counting import launches_of
from backend.engine.batching.row_caches import keep_rows, row_caches, separable

LENGTHS = [7, 3, 5]


def filled(length: int, seed: int) -> KVCache:
    cache = KVCache()
    generator = np.random.default_rng(seed)
    cache.update_and_fetch(*(mx.array(generator.standard_normal((1, 2, length, 4))) for _ in range(2)))
    return cache


def batch(lengths: list[int]) -> BatchKVCache:
    return BatchKVCache.merge([filled(length, seed) for seed, length in enumerate(lengths)])


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for mine, other in zip(ours.state, theirs.state, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))


@pytest.mark.parametrize("keep", [[0, 1], [1, 2], [2, 1], [1]])
def test_rows_are_kept_as_mlx_lms_filter_keeps_them(keep: list[int]) -> None:
    ours, theirs = batch(LENGTHS), batch(LENGTHS)
    keep_rows([ours], keep, LENGTHS)
    theirs.filter(keep)
    assert_equal(ours, theirs)
    more = [mx.ones((len(keep), 2, 1, 4))] * 2
    for mine, other in zip(ours.update_and_fetch(*more), theirs.update_and_fetch(*more), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_row_is_taken_out_as_mlx_lms_extract_takes_it(index: int) -> None:
    [ours] = row_caches([batch(LENGTHS)], index, LENGTHS)
    assert ours.offset == LENGTHS[index]
    assert_equal(ours, batch(LENGTHS).extract(index))


def pending(cache: BatchKVCache) -> list[mx.array]:
    """The cache's arrays made lazy, as they are while a step runs."""
    cache.keys, cache.values = cache.keys + 0, cache.values + 0
    cache.left_padding, cache.offset = cache.left_padding + 0, cache.offset + 0
    return [cache.keys, cache.values, cache.left_padding, cache.offset]


def test_neither_waits_for_the_device() -> None:
    ours, theirs = batch(LENGTHS), batch(LENGTHS)
    mx.eval(ours.state[:4], theirs.state[:4])
    arrays, others = pending(ours), pending(theirs)
    row_caches([CacheList(ours)], 1, LENGTHS)
    keep_rows([CacheList(ours)], [1, 2], LENGTHS)
    assert all(launches_of(array) == {"Add": 1} for array in arrays)
    theirs.filter([1, 2])
    assert not all(launches_of(array) for array in others)


def test_a_layer_that_counts_in_another_way_is_left_to_mlx_lm() -> None:
    for lengths in ([14, 6, 10], [6, 2, 4]):
        ours = batch(LENGTHS)
        keep_rows([ours], [1, 2], lengths)
        theirs = batch(LENGTHS)
        theirs.filter([1, 2])
        assert_equal(ours, theirs)
        assert_equal(row_caches([batch(LENGTHS)], 1, lengths)[0], batch(LENGTHS).extract(1))


def test_only_layers_of_known_classes_are_separable() -> None:
    state = ArraysCache(2)
    assert not separable([state])
    state[0] = state[1] = mx.zeros((2, 4))
    window = RotatingKVCache(8).merge([RotatingKVCache(8) for _ in range(2)])
    assert separable([batch(LENGTHS), window, CacheList(state, batch(LENGTHS))])
    assert not separable([batch(LENGTHS), CacheList(KVCache())])
