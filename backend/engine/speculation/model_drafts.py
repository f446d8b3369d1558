"""What another model has drafted for one row, and how likely that is right."""

import math
from collections.abc import Sequence

from backend.engine.speculation.chances import Chances

# The kind of a guess is the model's own probability of it, in classes, once for rows that take the likeliest token and
# once for those that draw.
_CONFIDENCES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
_ASSUMED = (0.1, 0.2, 0.3, 0.5, 0.65, 0.8, 0.9, 0.97)
ASSUMED = (*_ASSUMED, *_ASSUMED)
ASSUMED_OF_ANY = (0.6, 0.6)
# As so many outcomes, of each kind and of any: each is paid for, and some wrong ones at first must not end it.
COUNTS, COUNTS_OF_ANY = 6.0, 12.0


class ModelDrafts:
    """Engine thread only. As with places in texts, each token that is drawn tells whether the guess of it was right.

    Args:
        draws: The row draws by chance; else it takes the likeliest token.
        learned_of_any: The chance of any guess from other rows, which is all that is known before there is one.
        learned: The chances of each kind of guess from other rows; this one's are its own, and told to those.
    """

    def __init__(self, *, draws: bool, learned_of_any: Chances, learned: Chances) -> None:
        self._of_any = Chances(learned_of_any.of, counts=COUNTS_OF_ANY)
        self._learned_of_any = learned_of_any
        self._chances = Chances(learned.of, counts=COUNTS)
        self._learned = learned
        self._draws = int(draws)
        self._tokens: list[int] = []
        self._kinds: list[int] = []

    def __len__(self) -> int:
        """Guesses that no token has told about yet."""
        return len(self._tokens)

    def hoped(self, most: int) -> tuple[float, ...]:
        """For each of so many tokens, were they drafted now, the chance that it and all before it are right."""
        chance = self._of_any.of[self._draws]
        return tuple(chance**n for n in range(1, most + 1))

    def give(self, tokens: Sequence[int], confidences: Sequence[float]) -> None:
        """The model has drafted these, in place of all before, and gave each such a probability."""
        self._tokens = list(tokens)
        self._kinds = [self._kind(confidence) for confidence in confidences]

    def draft(self, most: int) -> tuple[list[int], list[float]]:
        """Up to `most` tokens that are left, and for each the chance that it and all before it are right."""
        chances: list[float] = []
        chance = 1.0
        for kind in self._kinds[:most]:
            chance *= self._chances.of[kind]
            chances.append(chance)
        return self._tokens[:most], chances

    def judge(self, token: int) -> None:
        """The answer's next token is this one."""
        if not self._tokens:
            return
        right, kind = self._tokens[0] == token, self._kinds[0]
        for chances in (self._chances, self._learned):
            chances.learn(kind, right=right)
        for chances in (self._of_any, self._learned_of_any):
            chances.learn(self._draws, right=right)
        self._tokens, self._kinds = (self._tokens[1:], self._kinds[1:]) if right else ([], [])

    def _kind(self, confidence: float) -> int:
        # What is no number is no confidence either.
        sure = 0.0 if math.isnan(confidence) else confidence
        return len(_CONFIDENCES) * self._draws + sum(sure >= least for least in _CONFIDENCES[1:])
