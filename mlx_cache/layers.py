"""The allow-list: how each layer cache class of mlx-lm 0.32.2 is read. A class that is not here is not reused, unless
the caller has tried that it can be kept whole.

Imports mlx_lm; only `mlx_cache.payload` imports this module. Classes are compared exactly: a subclass may keep more
than its parent does.

Arrays by token have the shape [1, heads, tokens, features].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from mlx_cache import whole
from mlx_cache.blocks import EVERYTHING, InconsistentCache, UnsupportedLayer

STEP = 256
"""mlx-lm's caches grow in steps of this many tokens; a restored buffer is rounded up to it."""


@dataclass(slots=True)
class TokenArrays:
    """What a layer holds token by token: `arrays[i][..., t - first, :]` belongs to token t."""

    first: int
    offset: int
    arrays: list[mx.array]
    codes: tuple[int, int] | None = None
    """Group size and bits of what is kept, where that are codes of `arrays`."""

    def stored(self, start: int, end: int) -> list[mx.array]:
        """What is kept of the tokens `[start, end)`."""
        parts = [array[..., start - self.first : end - self.first, :] for array in self.arrays]
        if self.codes is None:
            return parts
        group_size, bits = self.codes
        return [codes for part in parts for codes in mx.quantize(part, group_size=group_size, bits=bits)]


@dataclass(frozen=True, slots=True)
class ByToken:
    """A layer whose state can be cut at any token. `build(length, first, arrays)` makes it again."""

    kind: str
    reach: int
    params: tuple[int, ...]

    def capacity(self, held: int, room: int) -> int:
        """Tokens the restored buffer has place for, given those it holds."""
        if self.kind == "concatenate":
            return held
        rounded = -(-(held + room) // STEP) * STEP if room else held
        return max(held, min(rounded, self.reach)) if self.kind == "rotating" else rounded


@dataclass(frozen=True, slots=True)
class ByState:
    """A layer that can only be restored where a snapshot of it was taken. A `whole` one has its class as `params`."""

    kind: str
    params: tuple[Any, ...]


@dataclass(slots=True)
class LayerState:
    """A snapshot of one layer: its arrays, and of a `whole` layer the rest of it, which names them by their place."""

    arrays: list[mx.array | None]
    rest: Any = None


Kind = ByToken | ByState


def flatten(caches: Sequence[Any], path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The layer caches inside nested CacheLists, each with its path."""
    for index, cache in enumerate(caches):
        if type(cache) is CacheList:
            yield from flatten(cache.caches, (*path, index))
        else:
            yield (*path, index), cache


def nest(leaves: list[tuple[tuple[int, ...], Any]]) -> list[Any]:
    """The inverse of `flatten`."""
    out: list[Any] = []
    inner: dict[int, list[tuple[tuple[int, ...], Any]]] = {}
    for path, cache in leaves:
        if len(path) == 1:
            out.append(cache)
            continue
        if path[0] not in inner:
            inner[path[0]] = []
            out.append(inner[path[0]])
        inner[path[0]].append((path[1:], cache))
    return [CacheList(*nest(item)) if isinstance(item, list) else item for item in out]


def kind_of(cache: Any, kept_whole: frozenset[type] = frozenset(), at_rest: tuple[int, int] | None = None) -> Kind:
    """How a layer is kept, given the classes that the caller has tried. Raises UnsupportedLayer.

    `at_rest` is the group size and bits of codes that a plain layer is kept as. A layer of such codes is kept alike: as
    they are.
    """
    cls = type(cache)
    if cls in kept_whole:
        return ByState("whole", (cls,))
    if cls is KVCache:
        return ByToken("kv", EVERYTHING, ()) if at_rest is None else ByToken("at_rest", EVERYTHING, at_rest)
    if cls is ConcatenateKVCache:
        return ByToken("concatenate", EVERYTHING, ())
    if cls is QuantizedKVCache:
        form = (cache.group_size, cache.bits)
        return ByToken("at_rest" if form == at_rest else "quantized", EVERYTHING, form)
    if cls is ChunkedKVCache:
        return ByToken("chunked", cache.chunk_size, (cache.chunk_size,))
    if cls is ArraysCache:
        return ByState("arrays", (len(cache.cache),))
    if cls is RotatingKVCache:
        return _kind_of_rotating(cache)
    raise UnsupportedLayer(cls.__name__)


def _kind_of_rotating(cache: RotatingKVCache) -> Kind:
    if cache.keep == 0:
        return ByToken("rotating", cache.max_size, (cache.max_size, 0))
    # With kept first tokens the middle is gone after the wrap, and what remains depends on how it was computed.
    if cache.offset <= cache.max_size:
        return ByToken("filling", EVERYTHING, (cache.max_size, cache.keep))
    return ByState("ring", (cache.max_size, cache.keep))


def offset_of(cache: Any) -> int | None:
    """Tokens a layer covers; None for a class that does not count; 0 when empty."""
    if type(cache) is ArraysCache:
        return 0 if all(a is None for a in cache.cache) else None
    if not hasattr(cache, "keys"):
        offset = getattr(cache, "offset", None)
        return offset if isinstance(offset, int) else None
    return int(cache.offset) if cache.keys is not None else 0


def _read_plain(cache: Any) -> TokenArrays:
    return TokenArrays(0, cache.offset, [cache.keys, cache.values])


def _read_quantized(cache: Any) -> TokenArrays:
    return TokenArrays(0, cache.offset, [*_arrays(cache.keys), *_arrays(cache.values)])


def _read_at_rest(cache: Any) -> TokenArrays:
    return _read_quantized(cache) if type(cache) is QuantizedKVCache else _read_plain(cache)


def _read_chunked(cache: Any) -> TokenArrays:
    return TokenArrays(cache.start_position, cache.offset, [cache.keys, cache.values])


def _read_rotating(cache: Any) -> TokenArrays:
    arrays = [temporal(cache, cache.keys), temporal(cache, cache.values)]
    return TokenArrays(cache.offset - arrays[0].shape[2], cache.offset, arrays)


def temporal(cache: RotatingKVCache, array: mx.array) -> mx.array:
    """A ring's entries from the oldest to the newest, what was never written left out."""
    # The write position is private but for being in `state`: (keys, values, offset, keep, max_size, position).
    keep, idx = cache.keep, cache.state[5]
    if idx == array.shape[2]:
        return array
    if idx >= cache.offset:
        return array[..., :idx, :]
    return mx.concatenate([array[..., :keep, :], array[..., idx:, :], array[..., keep:idx, :]], axis=2)


_READ: dict[str, Callable[[Any], TokenArrays]] = {
    "kv": _read_plain,
    "concatenate": _read_plain,
    "at_rest": _read_at_rest,
    "quantized": _read_quantized,
    "chunked": _read_chunked,
    "rotating": _read_rotating,
    "filling": _read_rotating,
}


def read_tokens(cache: Any, kind: ByToken) -> TokenArrays:
    """The arrays of a layer that is kept by token. Raises InconsistentCache unless it is one sequence."""
    held = _READ[kind.kind](cache)
    if kind.kind == "at_rest" and type(cache) is not QuantizedKVCache:
        held.codes = (kind.params[0], kind.params[1])
    for array in held.arrays:
        if array.ndim != 4 or array.shape[0] != 1:
            raise InconsistentCache(f"{type(cache).__name__} holds {array.shape}, not one sequence")
        if held.first < 0 or array.shape[2] < held.offset - held.first:
            raise InconsistentCache(f"{type(cache).__name__} at {held.offset} holds {array.shape[2]} tokens")
    return held


def build_tokens(kind: ByToken, length: int, first: int, arrays: list[mx.array]) -> Any:
    """A layer cache at `length` tokens from arrays that begin with token `first`."""
    if kind.kind == "quantized":
        half = len(arrays) // 2
        quantized = QuantizedKVCache(group_size=kind.params[0], bits=kind.params[1])
        quantized.keys, quantized.values, quantized.offset = tuple(arrays[:half]), tuple(arrays[half:]), length
        return quantized
    if kind.kind in ("rotating", "filling"):
        return _ring(arrays[0], arrays[1], length, kind.params, length - first)
    if kind.kind == "chunked":
        cache: Any = ChunkedKVCache(kind.params[0])
        cache.start_position = first
    else:
        cache = ConcatenateKVCache() if kind.kind == "concatenate" else KVCache()
    if kind.kind == "at_rest":
        group_size, bits = kind.params
        arrays = [mx.dequantize(*arrays[i : i + 3], group_size=group_size, bits=bits) for i in (0, 3)]
    cache.keys, cache.values = arrays
    cache.offset = length
    return cache


def read_state(cache: Any, kind: ByState) -> LayerState:
    """The arrays of a layer that is kept by snapshot. Raises InconsistentCache unless it is one sequence."""
    if kind.kind == "whole":
        return LayerState(*whole.take_apart(cache))
    if kind.kind == "arrays":
        if cache.lengths is not None or (cache.left_padding is not None and max(cache.left_padding.tolist()) > 0):
            raise InconsistentCache("ArraysCache in the middle of a padded batch step")
        arrays: list[mx.array | None] = list(cache.cache)
    else:
        arrays = [_trimmed_ring(cache, cache.keys), _trimmed_ring(cache, cache.values)]
    if any(array is not None and array.shape[0] != 1 for array in arrays):
        raise InconsistentCache(f"{type(cache).__name__} holds a batch")
    return LayerState(arrays)


def _trimmed_ring(cache: RotatingKVCache, array: mx.array) -> mx.array:
    ordered = temporal(cache, array)
    surplus = ordered.shape[2] - cache.max_size
    if surplus <= 0:
        return ordered
    keep = cache.keep
    return mx.concatenate([ordered[..., :keep, :], ordered[..., surplus + keep :, :]], axis=2)


def build_state(kind: ByState, length: int, state: LayerState) -> Any:
    """A layer cache from a snapshot taken at `length` tokens."""
    if kind.kind == "whole":
        return whole.put_together(kind.params[0], state.arrays, state.rest)
    if kind.kind == "arrays":
        made = ArraysCache(kind.params[0])
        made.cache = state.arrays
        return made
    keys, values = state.arrays
    assert keys is not None and values is not None
    return _ring(keys, values, length, kind.params, keys.shape[2])


def _ring(keys: mx.array, values: mx.array, offset: int, params: tuple[int, ...], position: int) -> Any:
    max_size, keep = params
    return RotatingKVCache.from_state((keys, values, offset, keep, max_size, position))


def _arrays(value: Any) -> list[mx.array]:
    return [value] if isinstance(value, mx.array) else list(value)
