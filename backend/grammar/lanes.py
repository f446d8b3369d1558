"""The order of grammar trials: quick ones never wait for long ones. Pure."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """Attributes:
    quick, long: Trials that run at once in each lane.
    quick_s: A trial that runs longer goes over to the long lane.
    waiting: Trials that may wait for the long lane.
    """

    quick: int = 3
    long: int = 2
    quick_s: float = 0.25
    waiting: int = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: start these in the lane that is named, stop these, and give these up."""

    start: tuple[tuple[int, bool], ...] = ()  # (trial, whether it is long)
    lengthen: tuple[int, ...] = ()  # run on, in the long lane
    stop: tuple[int, ...] = ()  # to be started again later
    refuse: tuple[int, ...] = ()  # stopped for good: too many wait already


class Lanes:
    """Every trial starts in the quick lane. One that takes its time there moves over to the long lane if that has
    room; if it has none and others wait for its place, it is stopped and starts again when it has.

    So a trial of ordinary length waits for others of that length and for `quick_s`, however many long ones there are.
    """

    def __init__(self, limits: LaneLimits | None = None) -> None:
        self._limits = limits or LaneLimits()
        self._new: deque[int] = deque()
        self._again: deque[int] = deque()
        self._quick: dict[int, float] = {}  # trial -> when it started, oldest first
        self._long: set[int] = set()

    def add(self, trial: int) -> None:
        """A new trial."""
        self._new.append(trial)

    def remove(self, trial: int) -> None:
        """It has ended, or nobody wants it any more."""
        for queue in (self._new, self._again):
            if trial in queue:
                queue.remove(trial)
        self._quick.pop(trial, None)
        self._long.discard(trial)

    def plan(self, now: float) -> Plan:
        """What to do now; taken as done."""
        lengthen, stop, refuse = self._overdue(now)
        return Plan(tuple(self._starts(now)), lengthen, stop, refuse)

    def next_change(self) -> float | None:
        """When to plan again, if nothing else happens before."""
        # With nobody waiting, one that is overdue may stay where it is.
        started = next(iter(self._quick.values()), None)
        wanted = self._new or len(self._long) < self._limits.long
        return started + self._limits.quick_s if started is not None and wanted else None

    def _overdue(self, now: float) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        lengthen: list[int] = []
        stop: list[int] = []
        refuse: list[int] = []
        for trial in [t for t, started in self._quick.items() if now >= started + self._limits.quick_s]:
            if len(self._long) < self._limits.long and not self._again:
                self._long.add(trial)
                lengthen.append(trial)
            elif len(self._new) <= self._limits.quick - len(self._quick):
                break  # nobody needs its place
            elif len(self._again) < self._limits.waiting:
                self._again.append(trial)
                stop.append(trial)
            else:
                refuse.append(trial)
            del self._quick[trial]
        return tuple(lengthen), tuple(stop), tuple(refuse)

    def _starts(self, now: float) -> list[tuple[int, bool]]:
        starts: list[tuple[int, bool]] = []
        while self._new and len(self._quick) < self._limits.quick:
            trial = self._new.popleft()
            self._quick[trial] = now
            starts.append((trial, False))
        while self._again and len(self._long) < self._limits.long:
            trial = self._again.popleft()
            self._long.add(trial)
            starts.append((trial, True))
        return starts
