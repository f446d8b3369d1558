"""When a draft model reads a row and when it guesses: where that is expected to win more than it costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backend.engine.batching.drafting.model_drafter import ModelDrafter
from backend.engine.batching.row import Row
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Proposal
from backend.engine.speculation.row_drafts import Experience

# An answer is taken to go on for as long as it has gone already, and for so many tokens more.
_MORE = 64


@dataclass(frozen=True, slots=True)
class Turn:
    """What the draft model does before a step.

    Attributes:
        count: Tokens that it guesses of each row that it has read; 0 for none.
        reads: The row in whose tokens it reads on; None for none.
    """

    count: int
    reads: Row | None


@dataclass(slots=True, kw_only=True)
class Drafting:
    """Engine thread only.

    Args:
        bytes_of: What a round for so many rows and tokens of each holds at once.
    """

    drafter: ModelDrafter
    depths: Depths
    bytes_of: Callable[[int, int], int]
    clock: Callable[[], float]

    def turn(
        self,
        rows: Sequence[Row],
        proposals: Sequence[Proposal | None],
        limits: Sequence[int],
        *,
        may_read: bool,
        experience: Experience,
    ) -> Turn | None:
        """What pays; None for nothing.

        Args:
            proposals: What each row proposes by itself.
            limits: Tokens that a pass may look at of each.
        """
        costs, n = self.depths.drafting, len(rows)
        hoped = [self._hoped(row, limit) for row, limit in zip(rows, limits, strict=True)]
        if self.drafter.fault or not any(hoped):
            return None
        unread = [self.drafter.to_read(row) if chances else 0 for row, chances in zip(rows, hoped, strict=True)]
        ready = [() if left else chances for chances, left in zip(hoped, unread, strict=True)]
        count = self.depths.choose_drafting(proposals, ready)[0] if any(ready) else 0
        reads = self._to_read(rows, unread, proposals, hoped) if may_read and any(unread) else None
        if not count and reads is None:
            costs.refused(n)
            experience.passed_over()
            return None
        costs.used(n)
        return Turn(count, reads)

    def take(self, rows: Sequence[Row], turn: Turn, *, spare: Callable[[], int]) -> None:
        """Read, then guess: what was read last guesses along."""
        n = len(rows)
        if turn.reads is not None and turn.reads in rows:
            self.depths.invested(n, self.drafter.read(turn.reads))
        if not turn.count or not rows or self.bytes_of(n, turn.count) > spare():
            return
        started = self.clock()
        guesses = self.drafter.draft(rows, turn.count)
        self.depths.drafted(n, turn.count, self.clock() - started)
        for index, guess in guesses.items():
            drafts = rows[index].drafts
            if drafts is not None and drafts.model is not None:
                drafts.model.give(guess.tokens, guess.confidences)

    def figures(self) -> Mapping[str, float]:
        """What it did and what that cost, in tokens and in plain steps."""
        drafter = self.drafter
        tokens = {"draft_read_tokens": drafter.read_tokens, "draft_cached_tokens": drafter.cached_tokens}
        return {**self.depths.drafting_figures(), **tokens}

    def _hoped(self, row: Row, limit: int) -> tuple[float, ...]:
        """The chances of what the model would guess of a row; empty where it guesses nothing."""
        if limit <= 0 or row.drafts is None or row.drafts.model is None or has_guesses(row):
            return ()
        return row.drafts.model.hoped(limit) if self.drafter.may_guess(row, limit) else ()

    def _to_read(
        self,
        rows: Sequence[Row],
        unread: Sequence[int],
        proposals: Sequence[Proposal | None],
        hoped: Sequence[tuple[float, ...]],
    ) -> Row | None:
        """The row that is soonest read, where that is going to pay once all of them are."""
        count, value = self.depths.choose_drafting(proposals, hoped)
        if not count:
            return None
        left, index = min((left, index) for index, left in enumerate(unread) if left)
        row, n = rows[index], len(rows)
        going_on = min(row.submit.max_tokens - row.completion_tokens, row.completion_tokens + _MORE)
        won = going_on * (1.0 - math.exp(-value)) / n
        return row if self.depths.may_invest(n, self.drafter.seconds_to_read(left), won=won) else None


def has_guesses(row: Row) -> bool:
    """Whether a draft model's guesses of the row have not all been looked at."""
    return row.drafts is not None and row.drafts.model is not None and len(row.drafts.model) > 0
