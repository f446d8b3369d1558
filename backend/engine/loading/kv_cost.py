"""The weight of a row's caches at a given length, measured once from caches that have run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KVCost:
    """Bytes of one row's caches as a function of its tokens.

    Attributes:
        per_token: Of the layers that keep every token.
        windows: Pairs (tokens kept at most, bytes a token) of the layers that keep a window.
        fixed: Of states whose size does not depend on the length.
    """

    per_token: int = 0
    windows: tuple[tuple[int, int], ...] = ()
    fixed: int = 0

    def bytes_for(self, tokens: int) -> int:
        """Bytes of a row of `tokens` tokens, without the slack of block-wise growth."""
        windowed = sum(min(tokens, kept) * size for kept, size in self.windows)
        return self.fixed + tokens * self.per_token + windowed


def measure(short: Sequence[Any], long: Sequence[Any], *, apart: int) -> KVCost:
    """The cost of single-row caches (mlx-lm's, one per layer), of which two are given, `apart` tokens apart.

    The growth of a layer of no known shape is that between the two, which a window that both only begin to fill makes
    too large rather than too small.
    """
    per_token = fixed = 0
    windows: list[tuple[int, int]] = []
    for before, cache in zip(leaves(short), leaves(long), strict=True):
        keys, values = getattr(cache, "keys", None), getattr(cache, "values", None)
        if keys is None or values is None:
            grown = max(0, int(cache.nbytes) - int(before.nbytes)) // apart
            per_token += grown
            fixed += int(cache.nbytes) if not grown else 0
            continue
        size = (int(keys.nbytes) + int(values.nbytes)) // int(keys.shape[2])
        # A chunk of a ChunkedKVCache is its window.
        kept = getattr(cache, "max_size", None) or getattr(cache, "chunk_size", None)
        if kept is None:
            per_token += size
        else:
            windows.append((int(kept), size))
    return KVCost(per_token, tuple(windows), fixed)


def leaves(caches: Sequence[Any]) -> Iterator[Any]:
    """The layer caches inside nested lists of them."""
    for cache in caches:
        inner = getattr(cache, "caches", None)
        if inner is None:
            yield cache
        else:
            yield from leaves(inner)
