"""How long something has been silent, leaving out the time in which this process did not run itself."""

from collections.abc import Callable
from typing import Final

# Looks are late on a busy machine too; what is taken for a pause there is patience, and costs nothing.
LATE_SECONDS: Final = 0.5


class Silence:
    """For a limit on silence that is looked at again and again. One thread.

    A process that was stopped, or whose machine slept, looks late. Nothing that it waits for could be heard meanwhile,
    and what it does itself stood still with it.

    Args:
        clock: Monotonic seconds.
        every_s: At most so long lies between two looks of a process that runs.
    """

    def __init__(self, clock: Callable[[], float], every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._looked_at = clock()
        self._sign: float | None = None
        self._paused = 0.0

    def since(self, sign: float | None) -> float:
        """Seconds that it has been silent for.

        Args:
            sign: When it was last heard, on the clock; None while nothing is waited for.
        """
        now = self._clock()
        late = now - self._looked_at - self._every_s
        self._looked_at = now
        if sign != self._sign:
            self._sign, self._paused = sign, 0.0
        if sign is None:
            return 0.0
        if late > LATE_SECONDS:
            self._paused += min(late, now - sign)
        return now - sign - self._paused
