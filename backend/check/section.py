"""What a section works with: the loaded model, its share of the time, and where its findings go."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.check.report import Mark, Report, Row
from backend.check.subject import Subject


class Allowance:
    """The seconds that a section may take; it is asked between two rounds, so one of them may go over.

    Args:
        seconds: None is no bound.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds = seconds
        self._end = float("inf") if seconds is None else clock() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, infinite without a bound."""
        return self._end - self._clock()

    @property
    def overdrawn(self) -> bool:
        """Whether it has taken three times what it was given: what is not done by then stays undone."""
        return self.seconds is not None and self.left < -2 * self.seconds

    def part(self, count: int) -> float:
        """Seconds for each of so many equal pieces of work, infinite without a bound."""
        return float("inf") if self.seconds is None else self.seconds / count

    def rounds(self, least: int, most: int) -> Iterator[int]:
        """Count rounds: `least` at any rate, up to `most` as long as another one like the longest would fit."""
        longest = 0.0
        for done in range(most):
            if done >= least and longest > self.left:
                return
            began = self._clock()
            yield done
            longest = max(longest, self._clock() - began)


@dataclass(frozen=True, slots=True)
class Section:
    """One run of one section."""

    name: str
    subject: Subject
    allowance: Allowance
    report: Report
    churn_seconds: float

    def say(self, text: str) -> None:
        """A line of progress."""
        self.report.say(f"{self.name}: {text}")

    def figure(self, name: str, value: float | str | None, unit: str = "", note: str = "", **detail: Any) -> None:
        """A row without a mark."""
        self._add(name, value, unit, Mark.FIGURE, note, detail)

    def judge(self, name: str, value: float, unit: str, *, good: bool, note: str = "", **detail: Any) -> None:
        """A row about speed or size: ok or slow. A model of almost no work says nothing about either."""
        mark = Mark.OK if good else Mark.SLOW
        if not self.subject.facts.judges_speed:
            mark = Mark.NOT_APPLICABLE
        self._add(name, value, unit, mark, note, detail)

    def require(
        self, name: str, value: float | str, unit: str = "", *, right: bool, note: str = "", **detail: Any
    ) -> None:
        """A row about right and WRONG."""
        self._add(name, value, unit, Mark.OK if right else Mark.WRONG, note, detail)

    def skip(self, name: str, why: str) -> None:
        """A row that does not apply."""
        self._add(name, None, "", Mark.NOT_APPLICABLE, why, {})

    def _add(
        self, name: str, value: float | str | None, unit: str, mark: Mark, note: str, detail: Mapping[str, Any]
    ) -> None:
        self.report.add(
            Row(section=self.name, name=name, value=value, unit=unit, mark=mark, note=note, detail=dict(detail))
        )
