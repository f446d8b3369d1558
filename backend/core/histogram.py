"""Counts by size: how often a value was at most so much."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

# Bounds as vLLM has them, so that its dashboards read ours; a CPU needs the long ends, a GPU the short ones.
FIRST_TOKEN_SECONDS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 40.0,
)  # fmt: skip
REQUEST_SECONDS: Final = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
TOKENS: Final = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
)  # fmt: skip


class Histogram:
    """One thread observes; any thread may copy, and then may miss the observation that is being made.

    Attributes:
        counts: Values in each range, one more than there are bounds: those above the last are at the end.
        total: Sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float], counts: Sequence[int] = (), total: float = 0.0) -> None:
        """`bounds` ascend; a value belongs to the first that it is not above."""
        self.bounds = tuple(bounds)
        self.counts = list(counts) or [0] * (len(self.bounds) + 1)
        self.total = total

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Values in all."""
        return sum(self.counts)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both together; they have the same bounds."""
        counts = [mine + others for mine, others in zip(self.counts, other.counts, strict=True)]
        return Histogram(self.bounds, counts, self.total + other.total)

    def copy(self) -> "Histogram":
        """One that changes no more."""
        return Histogram(self.bounds, self.counts, self.total)
