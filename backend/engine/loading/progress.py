"""Progress of a download or a load, told at a rate that suits a log."""

import logging
import time
from collections.abc import Callable

from backend.core.logline import logline

log = logging.getLogger(__name__)

# stage ("download", "weights"), bytes done, bytes in all (0: not known yet)
Progress = Callable[[str, int, int], None]

LOG_EVERY_S = 5.0


class ProgressLog:
    """One stage's progress: every report to the observer, one log line in a while, and one at the end.

    Invariant: `done` never decreases within a stage as the observer sees it.

    Args:
        unit: What is counted.
    """

    def __init__(
        self,
        stage: str,
        model: str,
        observer: Progress | None,
        *,
        unit: str = "bytes",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage = stage
        self._model = model
        self._observer = observer
        self._unit = unit
        self._clock = clock
        self._started = self._logged = clock()
        self._done = 0
        self._total = 0

    def report(self, done: int, total: int) -> None:
        """Note what is done, and what there is in all."""
        self._done, self._total = max(done, self._done), total
        if self._observer is not None:
            self._observer(self._stage, self._done, total)
        if self._clock() - self._logged >= LOG_EVERY_S:
            self._logged = self._clock()
            self._log(f"model_{self._stage}")

    def finish(self) -> None:
        """Log what the stage has done, and its seconds."""
        self._log(f"model_{self._stage}_done")

    def _log(self, event: str) -> None:
        seconds = self._clock() - self._started
        counts = {self._unit: self._done, f"total_{self._unit}": self._total}
        log.info(logline(event, model=self._model, **counts, seconds=seconds))
