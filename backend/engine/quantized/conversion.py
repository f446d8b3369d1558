"""Rows of numbers into rows of codes, and back.

Every token is quantised as it is written, never after a model call has seen it in full precision, but for those before
a format's `start`, which is a chunk's end: so no answer depends on where its prompt was cut into chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache

from backend.engine.quantized.kv_format import KVFormat


def new_row(new_cache: Callable[[], list[Any]], kv: KVFormat) -> list[Any]:
    """Fresh caches of one row, of those that `new_cache` makes."""
    return to_codes(new_cache(), kv) if kv.is_codes(0) else new_cache()


def to_codes(caches: Sequence[Any], kv: KVFormat) -> list[Any]:
    """The same row with its plain KV layers quantised; windows and states stay as they are. Lazy."""
    return [_to_codes(cache, kv) for cache in caches]


def _to_codes(cache: Any, kv: KVFormat) -> Any:
    if type(cache) is CacheList:
        return CacheList(*to_codes(cache.caches, kv))
    return cache.to_quantized(kv.group_size, kv.bits) if type(cache) is KVCache else cache


def to_numbers(caches: Sequence[Any]) -> list[Any]:
    """The same row with its codes as the numbers that they stand for. Lazy."""
    return [_to_numbers(cache) for cache in caches]


def _to_numbers(cache: Any) -> Any:
    if type(cache) is CacheList:
        return CacheList(*to_numbers(cache.caches))
    if type(cache) is not QuantizedKVCache:
        return cache
    plain = KVCache()
    if cache.keys is None or cache.values is None:
        return plain
    plain.keys, plain.values = (
        mx.dequantize(*codes, group_size=cache.group_size, bits=cache.bits) for codes in (cache.keys, cache.values)
    )
    plain.offset = cache.offset
    return plain


def plain_layers(caches: Sequence[Any]) -> Iterator[Any]:
    """The layers that can be quantised, also those inside lists of layers."""
    for cache in caches:
        if type(cache) is CacheList:
            yield from plain_layers(cache.caches)
        elif type(cache) is KVCache:
            yield cache


def holds_codes(caches: Sequence[Any]) -> bool:
    """Whether some layer of a row holds codes."""
    return any(
        holds_codes(cache.caches) if type(cache) is CacheList else type(cache) is QuantizedKVCache for cache in caches
    )
