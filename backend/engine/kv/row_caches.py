"""Rows of a batch's caches: one taken out, some kept, without waiting for the step that runs."""

import copy
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache, CacheList, QuantizedKVCache

from backend.engine.kv.ragged import RaggedKVCache


def row_cache(cache: Any, index: int) -> Any:
    """Row `index` of a layer's batch cache, as a single row's cache of mlx-lm. Nothing here is evaluated.

    Keys and values become a view: a copy would be one of the whole row, of which the prompt cache usually has all but
    the answer.
    """
    if type(cache) is CacheList:
        return CacheList(*(row_cache(inner, index) for inner in cache.caches))
    return cache.view(index) if isinstance(cache, RaggedKVCache) else cache.extract(index)


def own_cache(cache: Any) -> Any:
    """A single row's cache of mlx-lm of that by which it decodes alone."""
    if type(cache) is CacheList:
        return CacheList(*(own_cache(inner) for inner in cache.caches))
    return cache.view(0) if isinstance(cache, RaggedKVCache) else cache


def separable(caches: list[Any]) -> bool:
    """Whether a row can go on alone with what `row_cache` makes of it: every layer is of a class known here."""
    return all(
        separable(list(cache.caches))
        if type(cache) is CacheList
        else isinstance(cache, RaggedKVCache)
        or (type(cache) is ArraysCache and all(array is not None for array in cache.cache))
        for cache in caches
    )


def copied(cache: Any) -> Any:
    """Another cache of the same numbers, which it keeps whatever becomes of the first; nothing is computed."""
    if type(cache) is CacheList:
        return CacheList(*(copied(inner) for inner in cache.caches))
    other = copy.copy(cache)
    for name, value in vars(cache).items():
        setattr(other, name, tree_map(_same, value))
    return other


def _same(value: Any) -> Any:
    # Writing to a part of an array makes the Python object another array; a copy of it stays what it was.
    return copy.copy(value) if isinstance(value, mx.array) else value


def nbytes(caches: list[Any] | None) -> int:
    """Bytes that the caches of a row or a batch hold."""
    return sum(_layer_nbytes(cache) for cache in caches or ())


def _layer_nbytes(cache: Any) -> int:
    if type(cache) is CacheList:
        return nbytes(list(cache.caches))
    empty = isinstance(cache, QuantizedKVCache) and cache.keys is None  # such a one cannot say
    return 0 if empty else int(cache.nbytes)  # pyright: ignore[reportArgumentType]
