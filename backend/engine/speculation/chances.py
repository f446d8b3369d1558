"""How likely a guess is right, learned from guesses before it."""

from collections.abc import Sequence

# What is assumed at first counts as so many outcomes.
_ASSUMED = 2.0


class Chances:
    """A probability for each kind of guess: a running mean of what became of them. Engine thread only.

    Args:
        assumed: What each kind begins with, in (0, 1).
        memory: Guesses after which what was learned is mostly forgotten.
    """

    def __init__(self, assumed: Sequence[float], *, memory: int = 32) -> None:
        self.of = list(assumed)
        self._slowest = 1 / memory
        self._weights = [1 / (_ASSUMED + 1)] * len(self.of)

    def learn(self, kind: int, *, right: bool) -> None:
        """A guess of this kind was right, or was not."""
        weight = self._weights[kind]
        self.of[kind] += weight * (right - self.of[kind])
        self._weights[kind] = max(self._slowest, weight / (1 + weight))
