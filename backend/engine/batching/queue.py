"""The rows that wait for their turn, in the order of their standing."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from backend.engine.batching.row import Row


def _place(row: Row) -> float:
    return row.standing.place


@dataclass(slots=True, eq=False)
class Queue:
    """Engine thread only. Invariant: places ascend."""

    _rows: list[Row] = field(default_factory=list[Row])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @property
    def first(self) -> Row:
        """The row that is next."""
        return self._rows[0]

    def add(self, row: Row) -> None:
        """Take a new row, behind its equals."""
        self._rows.insert(bisect_right(self._rows, _place(row), key=_place), row)

    def put_back(self, row: Row) -> None:
        """Take a row that was here before, ahead of its equals."""
        self._rows.insert(bisect_left(self._rows, _place(row), key=_place), row)

    def take_first(self) -> Row:
        """Remove and return the row that is next."""
        return self._rows.pop(0)

    def remove(self, row: Row) -> None:
        """Let a row go."""
        self._rows.remove(row)

    def clear(self) -> None:
        """Let all go."""
        self._rows.clear()
