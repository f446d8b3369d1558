"""How a thread that reads leaves the machine to others: between its pieces it rests as long as its share asks for."""

from __future__ import annotations

import time
from collections.abc import Callable

Share = Callable[[], float]

_LONGEST = 0.25
"""Seconds of one rest at most: the share may be another by then."""


def all_of_it() -> float:
    """The share of who need not care for others."""
    return 1.0


class Rests:
    """One thread's, made on it. `share` gives the part of the time, above 0 and up to 1, that it may work now.

    Waiting for a disk takes nothing from anybody, so only what its processor time was counts as work.
    """

    def __init__(
        self,
        share: Share,
        *,
        worked: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._share = share
        self._worked = worked
        self._sleep = sleep
        self._since = worked()

    def rest(self, beside: float = 0.0) -> None:
        """Rest for what was worked since the last call, and for `beside` seconds that another thread worked for it."""
        seconds = (self._worked() - self._since + beside) * (1 / self._share() - 1)
        if seconds > 0:
            self._sleep(min(seconds, _LONGEST))
        self._since = self._worked()
