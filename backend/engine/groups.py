"""Rows that decode together, in groups of like length."""

from collections.abc import Callable, Sequence
from typing import Any

from backend.engine.batch import DecodeBatch
from backend.engine.rows import Row


class DecodeGroups:
    """Every row that decodes, each in one batch. Engine thread only.

    A batch pads its rows to the longest: one long row among short ones makes every step, and every copy when a row
    joins or leaves, as dear as if all were long. A group of its own costs another pass over the weights instead. So
    a row joins the group where it wastes the fewest bytes, unless that is over `max_waste`; then it opens one.

    Args:
        bytes_per_token: KV that one more token of one row takes.
        max_waste: Bytes of padding that a row may cause; about what the weights take, since those are what a
            further group reads again.
    """

    def __init__(self, new_batch: Callable[[], DecodeBatch], *, bytes_per_token: int, max_waste: int) -> None:
        self._new_batch = new_batch
        self._bytes_per_token = bytes_per_token
        self._max_waste = max_waste
        self.groups: list[DecodeBatch] = []

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    @property
    def rows(self) -> list[Row]:
        """All rows, group by group."""
        return [row for group in self.groups for row in group.rows]

    def plan_join(self, rows: Sequence[Row]) -> list[tuple[DecodeBatch, list[Row]]]:
        """Where each row belongs, opening groups as needed; the caller has each group take its rows.

        Rows of one call are placed longest first, so that they find each other.
        """
        planned: dict[int, list[Row]] = {}
        for row in sorted(rows, key=lambda row: -row.covered):
            index = self._place(row, planned)
            planned.setdefault(index, []).append(row)
        return [(self.groups[index], members) for index, members in planned.items()]

    def _place(self, row: Row, planned: dict[int, list[Row]]) -> int:
        best, least = -1, self._max_waste
        for index, group in enumerate(self.groups):
            lengths = [other.covered for other in (*group.rows, *planned.get(index, ()))]
            waste = padding(lengths, row.covered) * self._bytes_per_token
            if waste <= least:
                best, least = index, waste
        if best < 0:
            self.groups.append(self._new_batch())
            best = len(self.groups) - 1
        return best

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows and their KV; unknown rows are ignored."""
        for group in self.groups:
            group.leave(rows)
        self.groups = [group for group in self.groups if group]

    def lose(self, group: DecodeBatch) -> None:
        """Drop a whole group without touching its arrays."""
        self.groups = [other for other in self.groups if other is not group]

    def view(self, row: Row) -> list[Any]:
        """The row's caches as lazy views of its batch, valid until the next change of that batch."""
        return next(group for group in self.groups if row in group.rows).view(row)

    def nbytes(self) -> int:
        """Bytes of live KV, padding included."""
        return sum(group.nbytes() for group in self.groups)


def padding(lengths: Sequence[int], joining: int) -> int:
    """Tokens of padding that a row of length `joining` causes among rows of these lengths."""
    longest = max(lengths, default=joining)
    return longest - joining if joining <= longest else (joining - longest) * len(lengths)
