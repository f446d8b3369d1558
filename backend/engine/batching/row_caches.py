"""Rows of a batch's caches: one taken out, some kept, without waiting for the step that runs.

mlx-lm's `filter` and `extract` read each layer's paddings from the device. The host knows them: all rows of a plain
KV layer end together, so a row's padding is what it is shorter by.
"""

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
)

from backend.engine.quantized.batch_cache import BatchQuantizedKVCache


def row_caches(caches: list[Any], index: int, lengths: Sequence[int]) -> list[Any]:
    """Row `index` of every layer's batch cache, as single-row caches of mlx-lm.

    A plain KV layer becomes a view: mlx-lm's `extract` would copy the whole row, of which the prompt cache
    usually has all but the answer. Other layers go through `extract`. Nothing here is evaluated.

    Args:
        lengths: Tokens that each row of the batch covers.
    """
    return [_row_cache(cache, index, lengths) for cache in caches]


def keep_rows(caches: list[Any], keep: list[int], lengths: Sequence[int]) -> None:
    """Drop all rows but these from every layer's batch cache, and the padding that none of them needs."""
    for cache in caches:
        _keep_rows(cache, keep, lengths)


def separable(caches: list[Any]) -> bool:
    """Whether a row can go on alone with what `row_caches` makes of it: every layer is of a class known here."""
    return all(
        separable(list(cache.caches))
        if type(cache) is CacheList
        else type(cache) in (BatchKVCache, BatchQuantizedKVCache, BatchRotatingKVCache)
        or (type(cache) is ArraysCache and all(array is not None for array in cache.cache))
        for cache in caches
    )


def _row_cache(cache: Any, index: int, lengths: Sequence[int]) -> Any:
    if type(cache) is CacheList:
        return CacheList(*(_row_cache(inner, index, lengths) for inner in cache.caches))
    paddings = _paddings(cache, lengths)
    if paddings is None:
        return cache.extract(index)
    start, end = paddings[index], cache._idx  # noqa: SLF001  mlx-lm has no getter
    quantized = type(cache) is BatchQuantizedKVCache
    row: Any = QuantizedKVCache(cache.group_size, cache.bits) if quantized else KVCache()
    row.keys, row.values = tree_map(lambda array: array[index : index + 1, :, start:end], (cache.keys, cache.values))
    row.offset = end - start
    return row


def _keep_rows(cache: Any, keep: list[int], lengths: Sequence[int]) -> None:
    if type(cache) is CacheList:
        keep_rows(list(cache.caches), keep, lengths)
        return
    paddings = _paddings(cache, lengths)
    if paddings is None:
        cache.filter(keep)
        return
    kept = [paddings[index] for index in keep]
    least = min(kept)
    chosen = mx.array(keep)
    cache.keys, cache.values = tree_map(lambda array: array[chosen][..., least:, :], (cache.keys, cache.values))
    cache.offset = cache.offset[chosen]
    cache.left_padding = mx.array([padding - least for padding in kept])
    cache._idx -= least  # noqa: SLF001  as above


def _paddings(cache: Any, lengths: Sequence[int]) -> list[int] | None:
    """Tokens of padding before each row of a plain KV layer; None where they do not follow from the lengths."""
    if type(cache) not in (BatchKVCache, BatchQuantizedKVCache) or cache.keys is None:
        return None
    end = int(cache._idx)  # noqa: SLF001  as above
    paddings = [end - length for length in lengths]
    # The longest row has none, after every join and every leave; else this layer counts in another way.
    return paddings if min(paddings) == 0 else None


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
