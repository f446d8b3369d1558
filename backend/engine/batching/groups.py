"""Rows that decode together, in groups of like length."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from backend.core.logline import logline
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.row import Row

log = logging.getLogger(__name__)


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
        for row in sorted(rows, key=lambda row: -row.covered):
            index = self._place(row, planned)
            planned.setdefault(index, []).append(row)
        return [(self.batches[index], members) for index, members in planned.items()]

    def _place(self, row: Row, planned: dict[int, list[Row]]) -> int:
        best, least = -1, self._max_waste
        for index, batch in enumerate(self.batches):
            lengths = [other.covered for other in (*batch.rows, *planned.get(index, ()))]
            waste = padding(lengths, row.covered) * self._bytes_per_token
            if waste <= least:
                best, least = index, waste
        if best < 0:
            self.batches.append(self._new_batch())
            best = len(self.batches) - 1
        return best

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, Exception]]:
        """Each row into its group. One whose caches do not go with the others' gets a batch of its own.

        Returns:
            The rows that are in no batch, and why.
        """
        failed: list[tuple[Row, Exception]] = []
        for batch, members in self.plan_join(rows):
            try:
                batch.join(members)
            except Exception:  # noqa: BLE001  which of them it was is found by trying them one by one
                for row in members:
                    failed.extend(self._join_one(batch, row))
        self.batches = [batch for batch in self.batches if batch]
        return failed

    def _join_one(self, batch: DecodeBatch, row: Row) -> list[tuple[Row, Exception]]:
        try:
            batch.join([row])
            return []
        except Exception as error:  # noqa: BLE001  its own shapes
            log.info(logline("joins_none", request_id=row.request.request_id, reason=type(error).__name__))
        self.batches.append(self._new_batch())
        try:
            # A lone row's caches are not merged.
            self.batches[-1].join([row])
        except Exception as error:  # noqa: BLE001  its own failure
            return [(row, error)]
        return []

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows and their KV; unknown rows are ignored."""
        for batch in self.batches:
            batch.leave(rows)
        self.batches = [batch for batch in self.batches if batch]

    def lose(self, batch: DecodeBatch) -> None:
        """Drop a whole group without touching its arrays."""
        self.batches = [other for other in self.batches if other is not batch]

    def view(self, row: Row) -> list[Any]:
        """The row's caches as lazy views of its batch, valid until the next change of that batch."""
        return next(batch for batch in self.batches if row in batch.rows).view(row)

    def nbytes(self) -> int:
        """Bytes of live KV, padding included."""
        return sum(batch.nbytes() for batch in self.batches)


def padding(lengths: Sequence[int], joining: int) -> int:
    """Tokens of padding that a row of length `joining` causes among rows of these lengths."""
    longest = max(lengths, default=joining)
    return longest - joining if joining <= longest else (joining - longest) * len(lengths)
