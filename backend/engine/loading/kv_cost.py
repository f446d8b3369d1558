"""The weight of a row's caches at a given length, measured once from caches that have run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from backend.engine.kv.spare import beyond


@dataclass(frozen=True, slots=True)
class Window:
    """A layer that keeps a window of the last tokens.

    Attributes:
        kept: Columns that stay when a pass begins, at most; what it adds comes in blocks of so many columns.
        spare: Columns beyond those that a row which decodes may have.
        size: Bytes of a column.
    """

    kept: int
    spare: int
    size: int
    block: int = 1

    def columns(self, chunk: int) -> int:
        """At most, of a row whose passes have so many tokens."""
        return self.kept + max(self.spare, -(-chunk // self.block) * self.block)


@dataclass(frozen=True, slots=True)
class KVCost:
    """Bytes of one row's caches as a function of its tokens.

    Attributes:
        per_token: Of the layers that keep every token.
        windows: The layers that keep a window.
        fixed: Of states whose size does not depend on the length.
        full_below: Tokens below which the layers that keep every token hold `full_per_token` bytes of each instead.
    """

    per_token: int = 0
    windows: tuple[Window, ...] = ()
    fixed: int = 0
    full_below: int = 0
    full_per_token: int = 0

    @property
    def most_per_token(self) -> int:
        """Bytes that another token may take in the layers that keep every one."""
        return max(self.per_token, self.full_per_token)

    def bytes_for(self, tokens: int, *, chunk: int = 1) -> int:
        """Bytes that a row takes on its way to `tokens` tokens, without the slack of block-wise growth.

        Args:
            chunk: Tokens of a pass: all that it adds to a window stays in it until the next one.
        """
        windowed = sum(min(tokens, window.columns(chunk)) * window.size for window in self.windows)
        by_token = max(tokens * self.per_token, min(tokens, self.full_below) * self.full_per_token)
        return self.fixed + by_token + windowed


def measure(short: Sequence[Any], long: Sequence[Any], *, apart: int) -> KVCost:
    """The cost of single-row caches (mlx-lm's, one per layer), of which two are given, `apart` tokens apart.

    The growth of a layer of no known shape is that between the two, which a window that both only begin to fill makes
    too large rather than too small.
    """
    per_token = fixed = 0
    windows: list[Window] = []
    for before, cache in zip(leaves(short), leaves(long), strict=True):
        keys, values = getattr(cache, "keys", None), getattr(cache, "values", None)
        if keys is None or values is None:
            grown = max(0, int(cache.nbytes) - int(before.nbytes)) // apart
            per_token += grown
            fixed += int(cache.nbytes) if not grown else 0
            continue
        arrays = [*keys, *values] if isinstance(keys, list | tuple) else [keys, values]
        size = sum(int(array.nbytes) for array in arrays) // int(arrays[0].shape[2])
        # A chunk of a ChunkedKVCache is its window; no batch moves its tokens, and it grows as it does in mlx-lm.
        chunk, kept = getattr(cache, "chunk_size", None), getattr(cache, "max_size", None)
        if chunk:
            windows.append(Window(int(chunk), int(cache.step), size, block=int(cache.step)))
        elif kept:
            windows.append(Window(int(kept), beyond(int(kept)), size))
        else:
            per_token += size
    return KVCost(per_token, tuple(windows), fixed)


def leaves(caches: Sequence[Any]) -> Iterator[Any]:
    """The layer caches inside nested lists of them."""
    for cache in caches:
        inner = getattr(cache, "caches", None)
        if inner is None:
            yield cache
        else:
            yield from leaves(inner)
