"""Keys and values of a batch of rows, each row in columns of its own: a row goes back by arithmetic."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from backend.engine.kv.offsets import offsets

Arrays = Any
"""Keys and values, each an array `[rows, heads, columns, features]` or, as codes, three of them."""


class Piece(NamedTuple):
    """Rows whose tokens end in the same column.

    Attributes:
        arrays: `[rows, heads, end or more, features]`.
        starts: The first column of each row's tokens.
        end: The column after the last.
    """

    arrays: Arrays
    starts: list[int]
    end: int


class RaggedKVCache:
    """What mlx-lm's BatchKVCache is to a model. Where that reads paddings from the device, this knows them.

    Row i has its tokens in the columns from `starts[i]` to `ends[i]`; other columns are seen by no query. Rows that
    join or stay when others leave are moved to end together, and as long as they do a step is written as one slice.

    Attributes:
        keys, values: As `Arrays`; None before the first token.
        counts: Tokens that each row has had.
        offset: The same on the device, `[rows]`: the positions of the tokens that come next.
    """

    step = 256

    def __init__(self, counts: Sequence[int]) -> None:
        self.keys: Any = None
        self.values: Any = None
        self.counts = list(counts)
        self.starts = [0] * len(self.counts)
        self.ends = [0] * len(self.counts)
        self.offset = offsets.of(self.counts)
        self._span = (0, 0)

    # What a model asks of it.

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Append as many tokens to every row, arrays `[rows, heads, tokens, features]`; what queries may see."""
        added = self._held(keys, values)
        count = keys.shape[2]
        self._span = self._span_of(count)
        dropped = self._make_room(added, count)
        self._span = (self._span[0] - dropped, self._span[1] - dropped)
        self._write(added, count)
        self.ends = [end + count for end in self.ends]
        self.counts = [held + count for held in self.counts]
        self.offset = offsets.after(self.offset, count)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Any, Any]:
        """What the last queries may see."""
        return _cut((self.keys, self.values), *self._span)

    def make_mask(
        self,
        N: int,  # noqa: N803  mlx-lm's name
        return_array: bool = False,
        window_size: int | None = None,
    ) -> mx.array | None:
        """Which columns each of `N` new queries sees, `[rows, 1, N, columns]`; None for all."""
        first, last = self._span_of(N)
        if N == 1 and len(self.counts) == 1 and not return_array and self.starts[0] <= first:
            window = self._window(window_size)
            if window is None or last - first <= window:
                return None
        columns = mx.arange(first, last)
        level = len(set(self.ends)) <= 1
        positions = mx.arange(N)[:, None] + (self.ends[0] if level and self.ends else _column(self.ends))
        mask = columns <= positions
        window = self._window(window_size)
        if window is not None:
            mask = mask & (columns > positions - window)
        return mask & (columns >= _column(self.starts))

    # What the batch asks of it.

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> "RaggedKVCache":
        """A batch of single rows' caches."""
        made = cls._like(caches[0], [cache.offset for cache in caches])
        made._lay([made._piece_of(cache) for cache in caches])  # noqa: SLF001  its own class
        return made

    def extend(self, other: Any) -> None:
        """Append the rows of another batch."""
        pieces = [*self._pieces(), *other._pieces()]  # noqa: SLF001  its own class
        self._count([*self.counts, *other.counts])
        self._lay(pieces)

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep these rows, without the columns that none of them needs."""
        keep = list(batch_indices)
        self._count([self.counts[index] for index in keep])
        starts, ends = [self._first(index) for index in keep], [self.ends[index] for index in keep]
        if len(set(ends)) > 1:
            self._lay([self._row_piece(index) for index in keep])
            return
        least, chosen = min(starts), offsets.rows(keep)
        self.starts = [start - least for start in starts]
        self.ends = [end - least for end in ends]
        self._span = self._span_of(0)
        if self.keys is not None:
            self.keys, self.values = tree_map(lambda array: array[chosen][..., least:, :], (self.keys, self.values))

    def view(self, index: int) -> Any:
        """One row as mlx-lm's cache of it: lazy, valid until the next change of the batch."""
        return self._filled(KVCache(), index)

    def extract(self, index: int) -> Any:
        """One row, in memory of its own."""
        row = self.view(index)
        if row.keys is not None:
            row.keys, row.values = tree_map(mx.contiguous, (row.keys, row.values))
        return row

    def rewind(self, back: Sequence[int]) -> None:
        """Forget the newest tokens of each row, no more than the last update gave it."""
        self._count([count - n for count, n in zip(self.counts, back, strict=True)])
        self.ends = [end - n for end, n in zip(self.ends, back, strict=True)]

    @property
    def level(self) -> bool:
        """Whether all rows end in the same column, as they do until some go further back than others."""
        return len(set(self.ends)) <= 1

    @property
    def stray(self) -> int:
        """Columns that there would not be if all rows ended together: of rows that went ahead of longer ones."""
        held = [end - start for start, end in zip(self.starts, self.ends, strict=True)]
        return max(self.ends, default=0) - max(held, default=0)

    def align(self) -> None:
        """Move the rows to end together: a copy of everything, after which steps are cheaper."""
        if not self.level:
            self._lay(self._pieces())

    @property
    def state(self) -> tuple[Any, ...]:
        """Every array that a step changes."""
        return self.keys, self.values, self.offset

    def size(self) -> int:
        """Tokens of the longest row."""
        return max(self.counts, default=0)

    def empty(self) -> bool:
        """Whether nothing was written yet."""
        return self.keys is None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, padding included."""
        sizes: list[int] = []
        tree_map(lambda array: sizes.append(array.nbytes), (self.keys, self.values) if self.keys is not None else ())
        return sum(sizes)

    @property
    def capacity(self) -> int:
        """Columns that there are."""
        if self.keys is None:
            return 0
        keys = self.keys
        return int((keys[0] if isinstance(keys, tuple | list) else keys).shape[2])

    # What kinds of caches differ in.

    @classmethod
    def _like(cls, cache: Any, counts: list[int]) -> "RaggedKVCache":
        """An empty batch of such rows."""
        del cache
        return cls(counts)

    def _held(self, keys: mx.array, values: mx.array) -> Arrays:
        """Keys and values as they are kept."""
        return keys, values

    def _window(self, wanted: int | None) -> int | None:
        """Tokens that a query sees at most, itself included."""
        return wanted

    def _span_of(self, count: int) -> tuple[int, int]:
        """The columns that `count` new queries are given."""
        return 0, max(self.ends, default=0) + count

    def _piece_of(self, cache: Any) -> Piece:
        """A single row's cache."""
        held = None if cache.keys is None else _cut((cache.keys, cache.values), 0, cache.offset)
        return Piece(held, [0], cache.offset)

    def _make_room(self, added: Arrays, count: int) -> int:
        """Have columns for that many tokens more; how many columns were dropped at the left for it."""
        used = max(self.ends, default=0)
        if used + count > self.capacity:
            self._resize(added, 0, self._rounded(used + count))
        return 0

    def _first(self, index: int) -> int:
        """The first column of a row that a query may still see."""
        return self.starts[index]

    def _rounded(self, columns: int) -> int:
        """Columns to have where so many are needed."""
        return -(-columns // self.step) * self.step

    # The rest is the same for all.

    def _resize(self, added: Arrays, first: int, capacity: int) -> None:
        """Have so many columns, without those before `first`."""
        used = max(self.ends, default=0)
        held = _cut((self.keys, self.values), first, used) if self.keys is not None else _cut(added, 0, 0)
        self.keys, self.values = _padded(held, 0, capacity - _columns(held))

    def _write(self, added: Arrays, count: int) -> None:
        if self.level:
            place = self.ends[0]

            def put(array: mx.array, new: mx.array) -> mx.array:
                array[..., place : place + count, :] = new
                return array
        else:
            columns = offsets.columns(self.ends, count)

            def put(array: mx.array, new: mx.array) -> mx.array:
                return mx.put_along_axis(array, mx.broadcast_to(columns, new.shape), new.astype(array.dtype), axis=2)

        self.keys, self.values = tree_map(put, (self.keys, self.values), added)

    def _filled(self, row: Any, index: int) -> Any:
        if self.keys is not None:
            start, end = self._first(index), self.ends[index]
            row.keys, row.values = tree_map(lambda a: a[index : index + 1, :, start:end], (self.keys, self.values))
        row.offset = self.counts[index]
        return row

    def _count(self, counts: list[int]) -> None:
        self.counts, self.offset = counts, offsets.of(counts)

    def _pieces(self) -> list[Piece]:
        rows = range(len(self.ends))
        if self.level:
            arrays = None if self.keys is None else (self.keys, self.values)
            return [Piece(arrays, [self._first(index) for index in rows], max(self.ends))]
        return [self._row_piece(index) for index in rows]

    def _row_piece(self, index: int) -> Piece:
        arrays = tree_map(lambda array: array[index : index + 1], (self.keys, self.values))
        return Piece(arrays, [self._first(index)], self.ends[index])

    def _lay(self, pieces: Sequence[Piece]) -> None:
        """Take these rows, moved to end together."""
        end = max(piece.end - min(piece.starts) for piece in pieces)
        filled = [piece.arrays for piece in pieces if piece.arrays is not None]
        capacity = self._rounded(end + 1)
        moved: list[Arrays] = []
        starts: list[int] = []
        for piece in pieces:
            shift = end - piece.end
            starts.extend(start + shift for start in piece.starts)
            if filled:
                arrays = piece.arrays if piece.arrays is not None else _nothing(filled[0], len(piece.starts))
                moved.append(_moved(arrays, shift, capacity))
        self.starts, self.ends = starts, [end] * len(starts)
        self._span = self._span_of(0)
        if filled:
            self.keys, self.values = tree_map(lambda *parts: mx.concatenate(list(parts)), *moved)


class RaggedQuantizedKVCache(RaggedKVCache):
    """The same of codes, scales and biases, as of `mx.quantize`.

    mlx-lm's attention is the quantised one for a cache that has `bits`.
    """

    def __init__(self, counts: Sequence[int], *, group_size: int, bits: int) -> None:
        super().__init__(counts)
        self.group_size = group_size
        self.bits = bits

    @classmethod
    def _like(cls, cache: Any, counts: list[int]) -> "RaggedQuantizedKVCache":
        return cls(counts, group_size=cache.group_size, bits=cache.bits)

    def _held(self, keys: mx.array, values: mx.array) -> Arrays:
        return tuple(tuple(mx.quantize(part, group_size=self.group_size, bits=self.bits)) for part in (keys, values))

    def view(self, index: int) -> Any:
        """One row as mlx-lm's cache of it: lazy, valid until the next change of the batch."""
        return self._filled(QuantizedKVCache(group_size=self.group_size, bits=self.bits), index)


def _column(numbers: Sequence[int]) -> mx.array:
    return mx.array(list(numbers))[:, None, None, None]


def _columns(arrays: Arrays) -> int:
    keys = arrays[0]
    return int((keys[0] if isinstance(keys, tuple | list) else keys).shape[2])


def _cut(arrays: Arrays, start: int, end: int) -> Arrays:
    return tree_map(lambda array: array[..., start:end, :], arrays)


def _padded(arrays: Arrays, before: int, after: int) -> Arrays:
    if not before and not after:
        return arrays
    return tree_map(lambda array: mx.pad(array, [(0, 0), (0, 0), (before, after), (0, 0)]), arrays)


def _moved(arrays: Arrays, shift: int, capacity: int) -> Arrays:
    """The same `shift` columns further right, negative for left, in so many columns; what falls out has no tokens."""
    cut = _cut(arrays, max(0, -shift), min(_columns(arrays), capacity - shift))
    before = max(0, shift)
    return _padded(cut, before, capacity - before - _columns(cut))


def _nothing(like: Arrays, rows: int) -> Arrays:
    return tree_map(lambda array: mx.zeros((rows, array.shape[1], 0, array.shape[3]), array.dtype), like)
