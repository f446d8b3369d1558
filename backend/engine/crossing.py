"""The way from the event loop to the engine thread and back, for what is asked of it between two steps."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.core.errors import WorkerUnavailable
from backend.engine.inbox import Call, Inbox


class Crossing:
    """Event loop only, but for `wake`. Invariant: who waits is told, also of an engine thread that never answers."""

    def __init__(self, inbox: Inbox) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = inbox
        self._awaited: set[asyncio.Future[Any]] = set()
        self._left_behind = False

    def wake(self, callback: Callable[[], None]) -> None:
        """Have the event loop call this. Any thread."""
        # A loop that is already closed has no reader left to tell.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    async def run(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, or raises, on the engine thread.

        Raises:
            WorkerUnavailable: It takes no more, or is left behind.
        """
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        call = Call(work, lambda result, error: self.wake(partial(settle, result, error)))
        if self._left_behind or not self._inbox.put(call):
            raise WorkerUnavailable("the engine is not running")
        self._awaited.add(future)
        try:
            return await future
        finally:
            self._awaited.discard(future)

    def leave_behind(self) -> None:
        """Tell whoever waits for the engine thread: it may never answer, and the loop must be able to end."""
        self._left_behind = True
        for future in self._awaited:
            if not future.done():
                future.set_exception(WorkerUnavailable("the engine is not running"))
