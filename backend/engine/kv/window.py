"""Keys and values of layers that see a window of the last tokens, for a batch of rows."""

from collections.abc import Sequence
from typing import Any

from mlx.utils import tree_map
from mlx_lm.models.cache import RotatingKVCache

from backend.engine.kv.ragged import Arrays, Piece, RaggedKVCache
from backend.engine.kv.spare import beyond


class RaggedWindowKVCache(RaggedKVCache):
    """As RaggedKVCache, of rows that see their last `max_size` tokens; a single row is served by it too.

    mlx-lm's caches of windows overwrite the oldest token in place. The order of a sum then depends on where a row's
    window has wrapped, and a row cannot go back. Here tokens stay in order, some columns beyond the window, and are
    moved to the left when those are used up.
    """

    def __init__(self, counts: Sequence[int], *, max_size: int) -> None:
        super().__init__(counts)
        self.max_size = max_size

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> "RaggedWindowKVCache":
        """A batch of single rows' `RotatingKVCache`s, none of which keeps its first tokens."""
        if len({cache.max_size for cache in caches}) > 1 or any(cache.keep for cache in caches):
            raise ValueError("windows of unlike sizes, or with tokens to keep, cannot be merged")
        made = super().merge(caches)
        assert isinstance(made, cls)
        return made

    def view(self, index: int) -> Any:
        """One row as mlx-lm's cache of it: lazy, valid until the next change of the batch."""
        row: Any = self._filled(RotatingKVCache(self.max_size), index)
        row._idx = self.ends[index] - self._first(index)  # noqa: SLF001  as below
        return row

    @property
    def stray(self) -> int:
        """Columns that queries would not be given if all rows ended together."""
        return max(self.ends, default=0) - min(self.ends, default=0)

    @classmethod
    def _like(cls, cache: Any, counts: list[int]) -> "RaggedWindowKVCache":
        return cls(counts, max_size=cache.max_size)

    def _window(self, wanted: int | None) -> int | None:
        return min(wanted or self.max_size, self.max_size)

    def _span_of(self, count: int) -> tuple[int, int]:
        return max(0, min(self.ends, default=0) + 1 - self.max_size), max(self.ends, default=0) + count

    def _piece_of(self, cache: Any) -> Piece:
        held = min(cache.offset, cache.max_size)
        if cache.keys is None or not held:
            return Piece(None, [0], 0)

        def last(array: Any) -> Any:
            return cache._temporal_order(array)[..., -held:, :]  # noqa: SLF001  mlx-lm has no other way to it

        return Piece(tree_map(last, (cache.keys, cache.values)), [0], held)

    def _first(self, index: int) -> int:
        return max(self.starts[index], self.ends[index] - self.max_size)

    def _rounded(self, columns: int) -> int:
        return -(-columns // beyond(self.max_size)) * beyond(self.max_size)

    def _make_room(self, added: Arrays, count: int) -> int:
        used = max(self.ends, default=0)
        if used + count <= self.capacity:
            return 0
        # All that a query of the row that is furthest behind may see stays.
        first = max(0, min(self.ends) + 1 - self.max_size)
        spare = beyond(self.max_size) if first else 0
        self._resize(added, first, self._rounded(used - first + count) + spare)
        self.starts = [max(0, start - first) for start in self.starts]
        self.ends = [end - first for end in self.ends]
        return first
