"""Beginnings of rows to try a model with: a few real tokens, and behind them entries that were never computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, QuantizedKVCache

from backend.engine.loading.kv_cost import leaves

Model = Callable[..., mx.array]
NewCache = Callable[[], list[Any]]

# Small ids exist in every vocabulary; prime, so that no pattern of theirs falls in with a model's blocks.
_IDS = 13


@dataclass(frozen=True, slots=True)
class Context:
    """A row before it decodes: `tokens` are read by the model, `filled` more are made up."""

    tokens: int
    filled: int = 0
    seed: int = 0


def token(seed: int, place: int) -> int:
    """The token that a row is fed at a place."""
    return (place * (seed + 3) + seed) % _IDS + 1


def read(model: Model, new_cache: NewCache, context: Context) -> list[Any]:
    """Fresh caches of one row that stands at the end of the context, evaluated."""
    caches = new_cache()
    model(mx.array([[token(context.seed, place) for place in range(context.tokens)]]), cache=caches)
    evaluate(caches)
    if context.filled:
        for place, cache in enumerate(leaves(caches)):
            _fill(cache, context.filled, mx.random.key(1000 * context.seed + place))
        evaluate(caches)
    return caches


def fillable(caches: Sequence[Any]) -> bool:
    """Whether every layer either grows by keys and values or does not know its position."""
    return all(type(cache) is ArraysCache or _holds_keys(cache) for cache in leaves(caches))


def evaluate(caches: Sequence[Any]) -> None:
    """Compute the caches now."""
    mx.eval([cache.state for cache in caches])


def _holds_keys(cache: Any) -> bool:
    if type(cache) is QuantizedKVCache:
        return cache.keys is not None
    return hasattr(cache, "update_and_fetch") and isinstance(getattr(cache, "keys", None), mx.array)


def _fill(cache: Any, count: int, key: mx.array) -> None:
    """Append `count` random entries that are distributed as the real ones; the position moves on with them."""
    if not _holds_keys(cache):
        return
    keys, values = (array[..., : cache.offset, :] for array in _numbers(cache))
    cache.update_and_fetch(_alike(keys, count, key), _alike(values, count, mx.random.split(key)[0]))


def _numbers(cache: Any) -> tuple[mx.array, mx.array]:
    if type(cache) is not QuantizedKVCache:
        return cache.keys, cache.values
    assert cache.keys is not None and cache.values is not None
    keys, values = (
        mx.dequantize(*codes, group_size=cache.group_size, bits=cache.bits) for codes in (cache.keys, cache.values)
    )
    return keys, values


def _alike(array: mx.array, count: int, key: mx.array) -> mx.array:
    rows, heads, _, width = array.shape
    if not width:
        return mx.zeros((rows, heads, count, 0), array.dtype)
    real = array.astype(mx.float32)
    mean, spread = mx.mean(real, axis=2, keepdims=True), mx.std(real, axis=2, keepdims=True)
    # Wider than the real ones: attention that picks few keys shows which ones it may see.
    drawn = mean + 2 * spread * mx.random.normal((rows, heads, count, width), key=key)
    return drawn.astype(array.dtype)
