"""Positions of the rows of a batch on the device: the same in all layers, so made once for all of them."""

import threading
from collections.abc import Sequence

import mlx.core as mx


class Offsets(threading.local):
    """The last arrays that were made. Layers ask one after the other, so there is nothing older to find.

    What was computed from an array is never given for another one, not even an equal one: what a failed step has
    computed is nobody's next.
    """

    def __init__(self) -> None:
        self._told: tuple[tuple[int, ...], mx.array] | None = None
        self._moved: tuple[mx.array, int, mx.array] | None = None
        self._rows: tuple[tuple[int, ...], mx.array] | None = None
        self._columns: tuple[tuple[int, ...], int, mx.array] | None = None

    def of(self, counts: Sequence[int]) -> mx.array:
        """These numbers, `[rows]`."""
        key = tuple(counts)
        if self._told is None or self._told[0] != key:
            self._told = key, mx.array(list(key))
        return self._told[1]

    def after(self, offset: mx.array, count: int) -> mx.array:
        """Each number and so many tokens more, `[rows]`, not waited for."""
        if self._moved is None or self._moved[0] is not offset or self._moved[1] != count:
            self._moved = offset, count, offset + count
            if self._told is not None and self._told[1] is offset:
                self._told = None
        return self._moved[2]

    def rows(self, indices: Sequence[int]) -> mx.array:
        """Indices of rows, `[rows]`."""
        key = tuple(indices)
        if self._rows is None or self._rows[0] != key:
            self._rows = key, mx.array(list(key))
        return self._rows[1]

    def columns(self, ends: Sequence[int], count: int) -> mx.array:
        """`count` columns of each row from its end on, `[rows, 1, count, 1]`."""
        key = tuple(ends)
        if self._columns is None or self._columns[:2] != (key, count):
            made = mx.array([[[[end + place] for place in range(count)]] for end in key])
            self._columns = key, count, made
        return self._columns[2]


offsets = Offsets()
