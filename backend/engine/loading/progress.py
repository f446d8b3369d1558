"""Progress of a download or a load, told at a rate that suits a log."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

from backend.core.logline import logline

log = logging.getLogger(__name__)

# stage ("download", "weights"), bytes done, bytes in all (0: not known yet)
Progress = Callable[[str, int, int], None]

LOG_EVERY_S = 5.0
# A rate is that of so long, not of all the time: what a disk or a network does now says how long the rest takes.
RATE_SECONDS = 15.0


class Rate:
    """How fast something goes, and how long the rest of it takes. Reports in order of time."""

    def __init__(self, now: float, done: int = 0) -> None:
        self._seen = deque([(now, done)])

    def saw(self, now: float, done: int) -> None:
        """So much is done by now."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_SECONDS:
            self._seen.popleft()

    def figures(self, total: int, unit: str) -> dict[str, float | None]:
        """For a log line: `bytes_per_s` and `left_s`, None where they are not known."""
        (began, first), (now, done) = self._seen[0], self._seen[-1]
        rate = (done - first) / (now - began) if now > began else 0.0
        left = (total - done) / rate if rate > 0 and total else None
        return {f"{unit}_per_s": rate if rate > 0 else None, "left_s": left}


class ProgressLog:
    """One stage's progress: every report to the observer, one log line in a while, and one at the end.

    Invariant: `done` never decreases within a stage as the observer sees it.

    Args:
        unit: What is counted.
        every_s: Seconds from one line to the next.
        at_once: Whether the first report is a line too: where it may be long until there is more to tell.
    """

    def __init__(
        self,
        stage: str,
        model: str,
        observer: Progress | None,
        *,
        unit: str = "bytes",
        every_s: float = LOG_EVERY_S,
        at_once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage = stage
        self._model = model
        self._observer = observer
        self._unit = unit
        self._every_s = every_s
        self._clock = clock
        self._started = clock()
        self._logged = self._started - every_s if at_once else self._started
        self._rate: Rate | None = None
        self._done = 0
        self._total = 0

    def report(self, done: int, total: int) -> None:
        """Note what is done, and what there is in all."""
        self._done, self._total = max(done, self._done), total
        if self._observer is not None:
            self._observer(self._stage, self._done, total)
        now = self._clock()
        if self._rate is None:
            # What an earlier try left comes with the first report, and says nothing of how fast this one is.
            self._rate = Rate(now, self._done)
        self._rate.saw(now, self._done)
        if total and now - self._logged >= self._every_s:
            self._logged = now
            self._log(f"model_{self._stage}", self._rate.figures(total, self._unit))

    def finish(self) -> None:
        """Log what the stage has done, and its seconds."""
        self._log(f"model_{self._stage}_done")

    def _log(self, event: str, figures: Mapping[str, float | None] = MappingProxyType({})) -> None:
        seconds = self._clock() - self._started
        counts = {self._unit: self._done, f"total_{self._unit}": self._total}
        log.info(logline(event, model=self._model, **counts, seconds=seconds, **figures))
