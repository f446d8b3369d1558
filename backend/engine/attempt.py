"""One try at loading a model: whether it is still wanted, and how long its threads may be silent."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed, WorkerError
from backend.core.held_tasks import hold
from backend.core.panics import is_panic
from backend.core.silence import Silence
from backend.engine.loading.failures import one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

# A load that is no longer wanted has this long to notice before its thread is left behind.
NOTICE_SECONDS = 1.0
# On the engine thread nothing can be left behind: one that shows no sign of life for so long ends the process.
NOTICE_SECONDS_ON_ENGINE = 30.0
# One piece of a load (an import, a file of weights, a kernel that is compiled) may take longer than any step.
LEAST_PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.5
# Between two tries to have a thread for what must be done at last.
THREAD_RETRY_SECONDS = 0.5


class NoThreadError(RuntimeError):
    """The system starts no more threads."""


class Attempt:
    """One load, from its call to its end. Event loop, but for `is_cancelled`.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, config: ModelConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = clock
        self._cancelled = threading.Event()
        self._last_sign = clock()

    def cancel(self) -> None:
        """The load is no longer wanted."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the load is no longer wanted."""
        return self._cancelled.is_set()

    def is_cancelled(self) -> bool:
        """As `cancelled`, asked by the thread that loads; that it asks is a sign of life."""
        self._last_sign = self._clock()
        return self._cancelled.is_set()

    @property
    def patience_s(self) -> float | None:
        """How long a thread of the load may be without a sign of life; None is for ever."""
        watchdog_s = self.config.engine.watchdog_s
        return None if watchdog_s is None else max(watchdog_s, LEAST_PATIENCE_SECONDS)

    async def outcome_of(self, stage: str, work: "asyncio.Future[T]") -> T:
        """What a thread's work gives, unless the load is given up first; the thread is left behind then.

        Raises:
            ModelLoadFailed: The load was cancelled, or its thread shows no sign of life for as long as the watchdog
                allows.
        """
        self._last_sign = self._clock()
        silence = Silence(self._clock, POLL_SECONDS)
        cancelled_at: float | None = None
        while not work.done():
            await asyncio.wait([work], timeout=POLL_SECONDS if cancelled_at is None else NOTICE_SECONDS / 10)
            now, limit = self._clock(), self.patience_s
            if limit is not None and silence.since(self._last_sign) > limit:
                self.cancel()
                raise ModelLoadFailed(f"{stage}: nothing has happened for {limit:g} s")
            if self.cancelled:
                cancelled_at = now if cancelled_at is None else cancelled_at
                if not work.done() and now - cancelled_at >= NOTICE_SECONDS:
                    raise ModelLoadFailed("loading was cancelled")
        try:
            return work.result()
        except WorkerError:
            raise
        # Of foreign code; LoadModel owes an answer.
        except Exception as error:
            log.debug("load", exc_info=error)
            raise ModelLoadFailed(f"{stage}: {type(error).__name__}: {one_line(error)}") from None


def in_thread(name: str, work: Callable[[], T]) -> "asyncio.Future[T]":
    """Run `work` on a thread that the process does not wait for when it ends; `NoThreadError` if there can be none."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001  the waiter's, whatever it is
            # Code of a checkpoint that ends the process would end the loop from here; a panic would end nobody's wait.
            foreign = isinstance(caught, SystemExit) or is_panic(caught)
            error = ModelLoadFailed(one_line(caught)) if foreign else caught
        # A loop that is closed has no waiter.
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    # Seen, so that asyncio does not complain of a thread that was left behind and failed after all.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        future.set_exception(NoThreadError(str(error)))
    return future


_closing: set[asyncio.Task[None]] = set()


def close_in_thread(name: str, close: Callable[[], None]) -> "asyncio.Task[None]":
    """Run what lets something go on a thread; where the system starts none, as soon as it does."""

    async def at_last() -> None:
        while True:
            with contextlib.suppress(NoThreadError):
                return await in_thread(name, close)
            await asyncio.sleep(THREAD_RETRY_SECONDS)

    task = asyncio.get_running_loop().create_task(at_last())
    hold(_closing, task)
    # Seen, as above.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
