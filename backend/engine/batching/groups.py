"""Rows that decode together, in groups of like length."""

import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from backend.core.logline import logline
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.group_cost import PaddingBounds
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.row import Row
from backend.engine.loading.failures import FOREIGN

# Two groups are one again for less than this part of what would have opened the second: rows must not come and go.
MERGE_BELOW = 0.5

log = logging.getLogger(__name__)


class DecodeGroups:
    """Every row that decodes, each in one batch. Engine thread only.

    A batch pads its rows to the longest: one long row among short ones makes every step, and every copy when a row
    joins or leaves, as dear as if all were long. A group of its own costs another pass over the weights instead. So
    a row joins the group where it wastes the fewest bytes, unless the group's padding would be over the bounds or more
    than is spare; then it opens one. Padding is therefore never what takes the rows over their budget. Groups whose
    rows have come to be of like length, since the longest have left, are put together again.

    Rows that hold codes and rows that hold numbers never share a batch.

    Args:
        bounds: Padding that is cheaper than another group.
        spare: Bytes of the budget that no row is going to need; rows about to join are not counted in it.
        is_codes: Whether a row that covers so many tokens holds codes.
    """

    def __init__(
        self,
        new_batch: Callable[[], DecodeBatch],
        budget: MemoryBudget,
        bounds: PaddingBounds,
        *,
        spare: Callable[[], int],
        is_codes: Callable[[int], bool] = lambda _covered: False,
    ) -> None:
        self.new_batch = new_batch
        self._budget = budget
        self._bounds = bounds
        self._spare = spare
        self._is_codes = is_codes
        self._loners: list[DecodeBatch] = []  # whose caches go with no others'
        self.batches: list[DecodeBatch] = []

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    @property
    def rows(self) -> list[Row]:
        """All rows, batch by batch."""
        return [row for batch in self.batches for row in batch.rows]

    def plan_join(self, rows: Sequence[Row]) -> list[tuple[DecodeBatch, list[Row]]]:
        """Where each row belongs, opening groups as needed.

        Rows of one call are placed longest first, so that they find each other.
        """
        planned: dict[int, list[Row]] = {}
        spare = min(
            self._spare() - self._budget.apart([row.covered for row in rows]), self._bounds.total - self.padded()
        )
        for row in sorted(rows, key=lambda row: -row.covered):
            index, taken = self._place(row, planned, max(0, spare))
            spare -= taken
            planned.setdefault(index, []).append(row)
        return [(self.batches[index], members) for index, members in planned.items()]

    def _place(self, row: Row, planned: dict[int, list[Row]], spare: int) -> tuple[int, int]:
        """The group for a row, and the spare bytes that its padding takes."""
        best, least, best_taken = -1, math.inf, 0
        for index, batch in enumerate(self.batches):
            if batch in self._loners:
                continue
            lengths = [other.covered for other in (*batch.rows, *planned.get(index, ()))]
            if not self._alike([*lengths, row.covered]):
                continue
            within = padding([*lengths, row.covered])
            waste = within - padding(lengths)
            taken = self._budget.padding(lengths, row.covered)
            cheap = within * self._budget.cost.most_per_token <= self._bounds.group
            if cheap and waste <= least and taken <= spare:
                best, least, best_taken = index, waste, taken
        if best < 0:
            self.batches.append(self.new_batch())
            best = len(self.batches) - 1
        return best, best_taken

    def _alike(self, lengths: Sequence[int]) -> bool:
        return len({self._is_codes(length) for length in lengths}) <= 1

    def plan_merge(self) -> DecodeBatch | None:
        """A group whose rows go with those of another for less than half of what would have opened it."""
        room = min(self._spare(), self._bounds.total - self.padded()) * MERGE_BELOW
        whole = [batch for batch in self.batches if batch.can_part and batch not in self._loners]
        for batch in sorted(whole, key=len):
            lengths = [row.covered for row in batch.rows]
            for other in whole:
                beside = [row.covered for row in other.rows]
                both = [*lengths, *beside]
                taken = self._budget.together(both) - self._budget.together(lengths) - self._budget.together(beside)
                cheap = padding(both) * self._budget.cost.most_per_token <= self._bounds.group * MERGE_BELOW
                if other is not batch and cheap and taken <= room and self._alike(both):
                    return batch
        return None

    def dissolve(self, batch: DecodeBatch) -> list[Row]:
        """Take the rows out of a group of which nothing is in flight, each with its caches, to join others."""
        for row in batch.rows:
            row.caches = batch.view(row)
        self.lose(batch)
        return list(batch.rows)

    def padded(self) -> int:
        """Bytes that all groups need for padding."""
        return self.projected() - self._budget.apart(row.covered for row in self.rows)

    def projected(self, *, without: Collection[Row] = ()) -> int:
        """Bytes that all groups need to run on, padding included."""
        return sum(
            self._budget.together([row.covered for row in batch.rows if row not in without]) for batch in self.batches
        )

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, BaseException]]:
        """Each row into its group. One whose caches do not go with the others' gets a batch of its own.

        Returns:
            The rows that are in no batch, and why.
        """
        failed: list[tuple[Row, BaseException]] = []
        for batch, members in self.plan_join(rows):
            try:
                batch.join(members)
            except FOREIGN:  # which of them it was is found by trying them one by one
                for row in members:
                    failed.extend(self._join_one(batch, row))
        self.drop_empty()
        return failed

    def _join_one(self, batch: DecodeBatch, row: Row) -> list[tuple[Row, BaseException]]:
        try:
            batch.join([row])
            return []
        except FOREIGN as error:  # its own shapes
            log.info(logline("joins_none", request_id=row.request.request_id, reason=type(error).__name__))
        self.batches.append(self.new_batch())
        self._loners.append(self.batches[-1])
        try:
            # A lone row's caches are not merged.
            self.batches[-1].join([row])
        except FOREIGN as error:  # its own failure
            return [(row, error)]
        return []

    def drop_empty(self) -> None:
        """Forget the groups that have no rows any more."""
        self.batches = [batch for batch in self.batches if batch]
        self._loners = [batch for batch in self._loners if batch]

    def lose(self, batch: DecodeBatch) -> None:
        """Drop a whole group without touching its arrays."""
        self.batches = [other for other in self.batches if other is not batch]
        self._loners = [other for other in self._loners if other is not batch]

    def view(self, row: Row) -> list[Any]:
        """The row's caches as lazy views of its batch, valid until the next change of that batch."""
        return next(batch for batch in self.batches if row in batch.rows).view(row)

    def nbytes(self) -> int:
        """Bytes of live KV, padding included."""
        return sum(batch.nbytes() for batch in self.batches)


def padding(lengths: Sequence[int]) -> int:
    """Tokens of padding in a batch of rows of these lengths."""
    return len(lengths) * max(lengths, default=0) - sum(lengths)
