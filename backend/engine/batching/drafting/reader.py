"""How far a draft model has read one row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.engine.batching.chunk import Chunk
from backend.engine.batching.row import Row


class Reader:
    """Engine thread only.

    Args:
        ends: Where reading stops, for what was read so far is kept.

    Invariant: the row's keys and values, here or in a lane, are those of its first `covered` tokens and, behind them,
    of the guesses in `fed`.

    Attributes:
        caches: A single row's, one a layer; None while the row is in a lane.
        chunk: What is being read now, from `covered` on.
        fed: Guesses that the model was given after the row's own tokens.
        barred: The row has a token that the model does not have.
        last_end: The last of `ends`; 0 for none.
        offered: Tokens that are kept of others and that it may begin with, as of `looked_up`.
    """

    def __init__(self, row: Row, caches: list[Any], *, vocab_size: int, ends: tuple[int, ...] = ()) -> None:
        self.row = row
        self.caches: list[Any] | None = caches
        self.covered = 0
        self.chunk: Chunk | None = None
        self.fed: list[int] = []
        self.ends = frozenset(ends)
        self.last_end = max(ends, default=0)
        self.offered = 0
        self.looked_up = -1
        self._vocab_size = vocab_size
        self._checked = len(row.submit.prompt.tokens)
        self.barred = bool((row.submit.prompt.tokens >= vocab_size).any())

    @property
    def known(self) -> int:
        """Tokens that the row has."""
        return len(self.row.submit.prompt.tokens) + len(self.row.generated)

    def tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """The row's tokens `[start, end)`."""
        prompt = self.row.submit.prompt.tokens
        if end <= len(prompt):
            return prompt[start:end]
        answer = self.row.generated[max(0, start - len(prompt)) : end - len(prompt)]
        return np.concatenate([prompt[start:], np.asarray(answer, np.int32)])

    @property
    def untouched(self) -> bool:
        """Whether nothing was read of the row."""
        return not self.covered and self.chunk is None

    def next(self, most: int) -> NDArray[np.int32]:
        """What is read next, `most` tokens or up to an end: never the newest token, and nothing where that is next."""
        end = min(self.covered + most, self.known - 1)
        return self.tokens(self.covered, min((at for at in self.ends if self.covered < at < end), default=end))

    def check(self) -> bool:
        """Whether the model has all tokens of the row, those of the answer too."""
        known = self.known
        if known > self._checked:
            self.barred = self.barred or bool((self.tokens(self._checked, known) >= self._vocab_size).any())
            self._checked = known
        return not self.barred

    def right(self) -> int:
        """How many of `fed` the row has drawn since; never its newest token, which is what is fed next."""
        drawn = self.tokens(self.covered, self.known - 1).tolist()
        n = 0
        while n < min(len(drawn), len(self.fed)) and drawn[n] == self.fed[n]:
            n += 1
        return n
