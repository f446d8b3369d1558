"""From single rows' caches to those of a batch, and back."""

from collections.abc import Sequence
from typing import Any

from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from backend.engine.kv.ragged import RaggedKVCache, RaggedQuantizedKVCache
from backend.engine.kv.window import RaggedWindowKVCache

# By their very classes: a model's own subclass may hold more than these know of.
_RAGGED: dict[type, type[RaggedKVCache]] = {
    KVCache: RaggedKVCache,
    QuantizedKVCache: RaggedQuantizedKVCache,
    RotatingKVCache: RaggedWindowKVCache,
}


def merged(layer: Sequence[Any]) -> Any:
    """One layer's batch cache of single rows' caches. Raises whatever caches raise that cannot be batched."""
    kinds = {type(cache) for cache in layer}
    if type(layer[0]) is CacheList:
        return CacheList(*(merged(inner) for inner in zip(*(cache.caches for cache in layer), strict=True)))
    if QuantizedKVCache in kinds and len(kinds) > 1:
        raise ValueError("codes and numbers cannot be merged")
    if type(layer[0]) is ArraysCache:
        _check_states(layer)
    ragged = _RAGGED.get(type(layer[0])) if len(kinds) == 1 else None
    return layer[0].merge(list(layer)) if ragged is None else ragged.merge(layer)


def alone(cache: Any) -> Any:
    """The cache by which a single row decodes: its own, but for windows, whose sums are to be those of any batch."""
    if type(cache) is CacheList:
        return CacheList(*(alone(inner) for inner in cache.caches))
    return merged([cache]) if type(cache) is RotatingKVCache and not cache.keep else cache


def _check_states(layer: Sequence[Any]) -> None:
    """States of unlike shapes are not merged: mlx-lm would stretch the smaller one (the last tokens of a short prompt,
    say) over the place of a larger one without a word."""
    for states in zip(*(cache.cache for cache in layer), strict=True):
        if len({state.shape[1:] for state in states if state is not None}) > 1:
            raise ValueError("states of unlike shapes cannot be merged")
