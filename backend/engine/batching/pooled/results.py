"""What is computed for one row, and the result that it makes."""

from bisect import insort
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.core.pooled import PooledResult, Relevances, ScoredToken, Scores, Vectors
from backend.engine.batching.pooled.texts import normalized, pooled
from backend.engine.batching.pooled.units import Part, chance
from backend.engine.batching.row import Row
from backend.engine.work import Embed, Tails

Numbers = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Computed:
    """A row and what it has so far.

    Attributes:
        left: Texts or tails that are to run yet and are in no unit, ascending.
        total: Of all.
    """

    row: Row
    left: list[int] = field(init=False)
    total: int = field(init=False)
    _numbers: dict[int, Numbers] = field(default_factory=dict[int, Numbers])

    def __post_init__(self) -> None:
        work = self.row.submit.work
        assert work is not None
        self.total = len(work.texts if isinstance(work, Embed) else work.tails)
        self.left = list(range(self.total))

    @property
    def complete(self) -> bool:
        """Whether all is computed."""
        return len(self._numbers) == self.total

    def claim(self, index: int) -> None:
        """A unit has it now."""
        self.left.remove(index)

    def give_back(self, index: int) -> None:
        """It is to run yet after all."""
        if index not in self._numbers and index not in self.left:
            insort(self.left, index)

    def take(self, part: Part) -> None:
        """One more is computed."""
        if part.index in self.left:  # the row has been away, and come back, since it was begun
            self.left.remove(part.index)
        work = self.row.submit.work
        if isinstance(work, Embed):
            length = len(work.texts[part.index])
            self._numbers[part.index] = pooled(part.pieces, length, work.pooling, normalize=work.normalize)
        elif isinstance(work, Tails) and work.yes_no is not None:
            self._numbers[part.index] = part.pieces[-1]
        else:
            self._numbers[part.index] = np.concatenate([np.empty(0, np.float32), *part.pieces])

    def result(self) -> PooledResult | None:
        """Of all that is computed; None where the model gave no numbers."""
        numbers = [self._numbers[index] for index in sorted(self._numbers)]
        if not all(np.isfinite(array).all() for array in numbers):
            return None
        work = self.row.submit.work
        if isinstance(work, Embed):
            return _cosines(numbers) if work.compares else _vectors(numbers[0], per_token=work.pooling == "none")
        assert isinstance(work, Tails)
        if work.yes_no is not None:
            return Relevances(tuple(chance(array.tolist()) for array in numbers))
        return self._scores(work, numbers)

    def _scores(self, work: Tails, numbers: list[Numbers]) -> Scores:
        bytes_of = self.row.submit.bytes_of
        return Scores(
            tuple(
                tuple(
                    ScoredToken(token=bytes_of(token), logprob=logprob)
                    for token, logprob in zip(tail.targets.tolist(), array.tolist(), strict=True)
                )
                for tail, array in zip(work.tails, numbers, strict=True)
            )
        )


def _vectors(array: Numbers, *, per_token: bool) -> Vectors:
    count, dim = array.shape
    return Vectors(data=np.ascontiguousarray(array, "<f4").tobytes(), count=count, dim=dim, per_token=per_token)


def _cosines(numbers: list[Numbers]) -> Relevances:
    rows = normalized(np.concatenate(numbers)).astype(np.float64)
    return Relevances(tuple((rows[1:] @ rows[0]).tolist()))
