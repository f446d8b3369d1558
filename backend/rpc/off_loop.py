"""Threads for the work on one large request, so that the event loop goes on answering all others."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from backend.core import freed_memory
from backend.core.pools import start_threads

T = TypeVar("T")
P = ParamSpec("P")

# About half a millisecond of parsing and translating; handing it to a thread costs a tenth of that.
INLINE_BYTES = 16 << 10
# One caller's huge request leaves a thread for the merely long ones.
_THREADS = 2
_TRIM_AFTER_S = 0.5
_MANY_BYTES = 16 << 20


class OffLoop:
    """Runs work on the loop where it is small, else on a thread. Event loop only.

    Work of Python alone still takes turns with the loop, a few milliseconds each, but never holds it.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="wire")
        start_threads(self._threads, _THREADS)
        self._trim: asyncio.TimerHandle | None = None
        self._left = 0  # bytes of requests since the last time
        self._closed = False

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, which grows with `size` in bytes."""
        if size <= INLINE_BYTES:
            return work(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def give_back_memory(self, size: int | None) -> None:
        """Return what a large request, or many small ones, have left free; nobody waits for it.

        Args:
            size: The request's bytes; None where its end never came.
        """
        size = freed_memory.LARGE_BYTES + 1 if size is None else size
        self._left += size
        large = size > freed_memory.LARGE_BYTES or self._left > _MANY_BYTES
        if large and self._trim is None and not self._closed:
            self._left = 0
            # Later: gRPC and the call's own frames still hold the request.
            self._trim = asyncio.get_running_loop().call_later(_TRIM_AFTER_S, self._trim_now)

    def _trim_now(self) -> None:
        self._trim = None
        self._threads.submit(freed_memory.give_back)

    def close(self) -> None:
        """Begin no more work; what runs is not waited for."""
        self._closed = True
        if self._trim is not None:
            self._trim.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
