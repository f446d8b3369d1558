"""A step of several tokens: what was drafted to follow each row's newest token is looked at in one pass."""

from collections.abc import Callable, Sequence

from backend.engine.batching.emitted import Emitted, accept_sampled
from backend.engine.batching.row import Row
from backend.engine.kv.going_back import Pass
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import Sampled

Draw = Callable[[int, Sequence[int], Sequence[RowSampling]], Sampled]
"""One token for each of some rows, from the logits at a place of a pass: the place, the rows' indices, the rows."""


class Verification:
    """One pass, and the draws from its logits. Engine thread only; an exception anywhere loses the batch.

    Every token is drawn as in a step of its own, one after the other; a row goes on as long as what it has drawn is
    what was drafted. So a draft decides how many tokens a pass gives, and never which.

    Args:
        drafts: For each row the tokens that may come next, none or more.
        draw: Draws from this pass.
    """

    def __init__(self, run: Pass, rows: Sequence[Row], drafts: Sequence[Sequence[int]], draw: Draw) -> None:
        self._run, self._rows, self._drafts, self._draw = run, list(rows), drafts, draw
        self._place = 0
        self._going = list(range(len(self._rows)))
        self._right = [0] * len(self._rows)
        self.drawn = [0] * len(self._rows)
        # Before any row comes to its end, and tells its client.
        for row, draft in zip(self._rows, drafts, strict=True):
            if row.drafted is not None:
                row.drafted += len(draft)

    def next(self) -> list[Emitted]:
        """The next token of every row that goes on; empty once none does."""
        going, place = self._going, self._place
        if not going:
            return []
        sampled = self._draw(place, going, [self._rows[index].sampling for index in going])
        emitted = [accept_sampled(self._rows[index], at, sampled) for at, index in enumerate(going)]
        self._place += 1
        self._going = []
        for index, item in zip(going, emitted, strict=True):
            self.drawn[index] += 1
            self._rows[index].covered += 1
            draft = self._drafts[index]
            if item.error is None and place < len(draft) and draft[place] == item.token:
                self._right[index] += 1
                self._rows[index].accepted += 1
                self._going.append(index)
        return emitted

    def stop(self, rows: Sequence[Row]) -> None:
        """These rows have come to their end."""
        gone = {id(row) for row in rows}
        self._going = [index for index in self._going if id(self._rows[index]) not in gone]

    def close(self) -> None:
        """Leave the batch's caches as steps of one token would have."""
        self._run.keep(self.drawn)

    def accepted(self, index: int) -> int:
        """How many of a row's drafted tokens were the ones drawn: the first ones, up to its end."""
        return self._right[index]
