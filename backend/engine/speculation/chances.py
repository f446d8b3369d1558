"""How likely a guess is right, learned from guesses before it."""

from collections.abc import Sequence

# Few: what is learned costs nothing.
_ASSUMED = 2.0


class Chances:
    """A probability for each kind of guess: a running mean of what became of them. Engine thread only.

    Args:
        assumed: What each kind begins with, in (0, 1).
        memory: Guesses after which what was learned is mostly forgotten.
        counts: What is assumed counts as so many outcomes.
    """

    def __init__(self, assumed: Sequence[float], *, memory: int = 32, counts: float = _ASSUMED) -> None:
        self.of = list(assumed)
        self._assumed = tuple(assumed)
        self._slowest = 1 / memory
        self._weights = [1 / (counts + 1)] * len(self.of)

    def learn(self, kind: int, *, right: bool) -> None:
        """A guess of this kind was right, or was not."""
        weight = self._weights[kind]
        self.of[kind] += weight * (right - self.of[kind])
        self._weights[kind] = max(self._slowest, weight / (1 + weight))

    def forget(self, kind: int, share: float) -> None:
        """Go back towards what was assumed, by this share of the way: what is not tried any more is known less well."""
        self.of[kind] += share * (self._assumed[kind] - self.of[kind])
