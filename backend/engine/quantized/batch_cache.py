"""Quantised keys and values of a batch of rows, which mlx-lm has for single rows only."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import CacheList, QuantizedKVCache

Codes = tuple[mx.array, mx.array, mx.array]
"""Codes, scales and biases as of `mx.quantize`, each of shape [rows, heads, tokens, ...]."""


class BatchQuantizedKVCache:
    """As mlx-lm's BatchKVCache: rows end together, shorter ones begin with padding that no query sees.

    mlx-lm's attention is the quantised one for a cache that has `bits`. `offset`, `left_padding` and `_idx` are those
    of BatchKVCache, by which rows are taken out of either.

    Args:
        left_padding: Tokens of padding before each row.
    """

    step = 256

    def __init__(self, left_padding: Sequence[int], *, group_size: int, bits: int) -> None:
        self.keys: Codes | None = None
        self.values: Codes | None = None
        self.left_padding = mx.array(list(left_padding))
        self.offset = mx.array([-padding for padding in left_padding])
        self._idx = 0
        self.group_size = group_size
        self.bits = bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Codes, Codes]:
        """Append tokens of every row, arrays `[rows, heads, tokens, features]`; all codes."""
        added = tuple(mx.quantize(array, group_size=self.group_size, bits=self.bits) for array in (keys, values))
        before, self._idx = self._idx, self._idx + keys.shape[2]
        self.offset = self.offset + keys.shape[2]
        if self._idx > self.capacity:
            blocks = -(-keys.shape[2] // self.step) * self.step
            held = (self.keys, self.values) if self.keys is not None else _cut(added, 0, 0)
            self.keys, self.values = _padded(_cut(held, 0, before), 0, blocks)
        for mine, new in zip((self.keys, self.values), added, strict=True):
            assert mine is not None
            for array, part in zip(mine, new, strict=True):
                array[..., before : self._idx, :] = part
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Codes, Codes]:
        """All codes, without the room to grow."""
        return _cut((self.keys, self.values), 0, self._idx)

    def make_mask(self, N: int, return_array: bool = False, **options: Any) -> mx.array:  # noqa: N803  mlx-lm's name
        """Which keys each of `N` new queries sees, `[rows, 1, N, keys]`."""
        del return_array
        return create_causal_mask(N, offset=self._idx, left_padding=self.left_padding, **options)

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep these rows, without the padding that none of them needs."""
        chosen = mx.array(list(batch_indices))
        self.offset, self.left_padding = self.offset[chosen], self.left_padding[chosen]
        least = int(mx.min(self.left_padding).item())  # pyright: ignore[reportArgumentType]
        if self.keys is not None:
            self.keys, self.values = tree_map(lambda array: array[chosen][..., least:, :], (self.keys, self.values))
        self._idx -= least
        self.left_padding = self.left_padding - least

    def extend(self, other: "BatchQuantizedKVCache") -> None:
        """Append the rows of another batch."""
        shapes = (self.keys, self.values) if self.keys is not None else (other.keys, other.values)
        end = max(self.size(), other.size())
        if shapes[0] is not None:
            capacity = max(self.capacity, other.capacity, end)
            mine, theirs = (cache.moved_to(end, capacity, shapes) for cache in (self, other))
            self.keys, self.values = tree_map(lambda a, b: mx.concatenate([a, b]), mine, theirs)
        self.left_padding = mx.concatenate([cache.left_padding + (end - cache.size()) for cache in (self, other)])
        self.offset = mx.concatenate([self.offset, other.offset])
        self._idx = end

    def extract(self, idx: int) -> QuantizedKVCache:
        """One row, in memory of its own."""
        row: Any = QuantizedKVCache(group_size=self.group_size, bits=self.bits)
        if self.keys is not None:
            padding = int(self.left_padding[idx].item())  # pyright: ignore[reportArgumentType]
            row.keys, row.values = tree_map(
                lambda array: mx.contiguous(array[idx : idx + 1, :, padding : self._idx]), (self.keys, self.values)
            )
            row.offset = self._idx - padding
        return row

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> "BatchQuantizedKVCache":
        """A batch of single rows' `QuantizedKVCache`s."""
        longest = max(cache.offset for cache in caches)
        padding = [longest - cache.offset for cache in caches]
        batch = cls(padding, group_size=caches[0].group_size, bits=caches[0].bits)
        held = [(cache.keys, cache.values) for cache in caches if cache.keys is not None]
        if not longest:
            return batch
        rows: list[Any] = []
        for cache, before in zip(caches, padding, strict=True):
            full = (cache.keys, cache.values) if cache.keys is not None else held[0]
            rows.append(_padded(_cut(full, 0, cache.offset), before, 0))
        batch.keys, batch.values = tree_map(lambda *arrays: mx.concatenate(list(arrays)), *rows)
        batch.offset = batch.offset + longest
        batch._idx = longest
        return batch

    @property
    def state(self) -> tuple[Any, ...]:
        """Everything that a step changes."""
        return self.keys, self.values, self.offset, self.left_padding, self._idx

    def size(self) -> int:
        """Tokens of the longest row."""
        return self._idx

    def empty(self) -> bool:
        """Whether nothing was written yet."""
        return self.keys is None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases, padding included."""
        return sum(array.nbytes for part in (self.keys, self.values) for array in part or ())

    @property
    def capacity(self) -> int:
        """Tokens that there is room for."""
        return self.keys[0].shape[2] if self.keys is not None else 0

    def moved_to(self, end: int, capacity: int, shapes: Any) -> Any:
        """The arrays with this batch's last token at `end` of `capacity`; `shapes` stand for arrays not there yet."""
        if self.keys is None:
            rows = self.offset.shape[0]
            return tree_map(lambda like: mx.zeros((rows, like.shape[1], capacity, like.shape[3]), like.dtype), shapes)
        before = end - self._idx
        kept = min(self.capacity, capacity - before)
        return _padded(_cut((self.keys, self.values), 0, kept), before, capacity - before - kept)


def merged(layer: Sequence[Any]) -> Any:
    """One layer's batch cache of single rows' caches. Raises whatever caches raise that cannot be batched."""
    if type(layer[0]) is CacheList:
        return CacheList(*(merged(inner) for inner in zip(*(cache.caches for cache in layer), strict=True)))
    if not any(type(cache) is QuantizedKVCache for cache in layer):
        return layer[0].merge(list(layer))
    if any(type(cache) is not QuantizedKVCache for cache in layer):
        raise ValueError("codes and numbers cannot be merged")
    return BatchQuantizedKVCache.merge(layer)


def _cut(arrays: Any, start: int, end: int) -> Any:
    return tree_map(lambda array: array[..., start:end, :], arrays)


def _padded(arrays: Any, before: int, after: int) -> Any:
    if not before and not after:
        return arrays
    return tree_map(lambda array: mx.pad(array, [(0, 0), (0, 0), (before, after), (0, 0)]), arrays)
