"""The gate that calls pass: it counts those that run, which a clean stop waits for, and can be shut."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from backend.core.errors import WorkerUnavailable


class Gate:
    """Event loop only. Invariant: `_running` is the number of calls inside `call()`."""

    def __init__(self) -> None:
        self._closed = ""
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Calls that have started and not ended."""
        return self._running

    @contextmanager
    def call(self) -> Generator[None]:
        """Around one call.

        Raises:
            WorkerUnavailable: The gate is closed.
        """
        if self._closed:
            raise WorkerUnavailable(self._closed)
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def close(self, why: str = "") -> None:
        """Let no further call start, and tell those that try why; what was said first holds."""
        self._closed = self._closed or why or "the worker is shutting down"

    async def wait_idle(self, within_s: float) -> bool:
        """Wait until no call runs, `within_s` seconds at most; whether none does."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
