"""Who is next, and who leaves for whom. Pure: it sees standings and decides, the engine thread carries it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

# A level of priority is worth so much of waiting: no request waits for one that came later than that for each level.
SECONDS_A_LEVEL: Final = 30.0
# A request leaves for higher ones so often at most.
MOST_DISPLACED: Final = 3


@dataclass(frozen=True, slots=True, order=True)
class Standing:
    """A request's place among all: the lowest goes first. It never changes, however long the request waits or runs.

    Attributes:
        place: When it came to the queue, in monotonic seconds, moved by its priority.
    """

    place: float
    priority: int

    @classmethod
    def of(cls, came_at: float, priority: int) -> "Standing":
        """The standing of a request that came at monotonic time `came_at`."""
        return cls(came_at - SECONDS_A_LEVEL * priority, priority)

    def goes_over(self, other: "Standing") -> bool:
        """Whether it may take the place of the other's row. No two requests ever may of each other."""
        return self.priority > other.priority and self.place < other.place


class Stands(Protocol):
    """A request that stands somewhere, and how often it has left its row for others."""

    @property
    def standing(self) -> Standing: ...

    @property
    def displaced(self) -> int: ...


T = TypeVar("T", bound=Stands)


def displaceable(running: Sequence[T], to: Stands) -> list[T]:
    """Those that run and may have to leave for a request; who is to leave first is at the front."""
    may = [one for one in running if one.displaced < MOST_DISPLACED and to.standing.goes_over(one.standing)]
    return sorted(may, key=lambda one: one.standing.place, reverse=True)
