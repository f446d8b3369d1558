"""The sleep of an idle model: when it begins, and that all who need the model wait for one awakening."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from backend.core.errors import DeadlineExceeded, WorkerError, WorkerUnavailable
from backend.core.held_tasks import hold
from backend.core.logline import logline

log = logging.getLogger(__name__)

# Between two looks at the clock, which may be another than the event loop's.
LEAST_NAP_SECONDS = 0.02
LONGEST_NAP_SECONDS = 1.0


class Sleep:
    """Event loop only. Invariant: `since` is set from before the weights are dropped until they are there again.

    Args:
        changing: Held by whoever changes what the engine thread has.
        drop_weights: Drops them; false while there is work yet.
        load_weights: Loads them again; raises a `WorkerError` where that fails.
        idle_since: When the last request ended, on `clock`; None while there is one.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        changing: asyncio.Lock,
        drop_weights: Callable[[], Awaitable[bool]],
        load_weights: Callable[[], Awaitable[None]],
        *,
        idle_since: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changing = changing
        self._drop_weights = drop_weights
        self._load_weights = load_weights
        self._idle_since = idle_since
        self._clock = clock
        self._idle_s: float | None = None
        self._awake_since = clock()
        self._awakening: asyncio.Future[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._waking: set[asyncio.Task[None]] = set()
        self.since: datetime | None = None

    def begin(self, idle_s: float | None) -> None:
        """A model was loaded: let it sleep once it has been idle for so long; None is never."""
        self.end()
        self._idle_s = idle_s
        self._watch()

    def end(self) -> None:
        """The model is gone."""
        self.since = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def awake(self, deadline: float | None = None) -> None:
        """Wait until the weights are there; at once where they are.

        Raises:
            DeadlineExceeded: `deadline`, on the clock, has passed; the awakening goes on.
            WorkerError: What `load_weights` raised, or what `give_up` was given.
        """
        if self.since is None:
            return
        if self._awakening is None:
            self._awakening = asyncio.get_running_loop().create_future()
            # Seen, so that asyncio does not complain where all who waited have left.
            self._awakening.add_done_callback(lambda done: done.cancelled() or done.exception())
            hold(self._waking, asyncio.get_running_loop().create_task(self._wake(self._awakening)))
        awakening = self._awakening
        await asyncio.wait([awakening], timeout=None if deadline is None else max(0.0, deadline - self._clock()))
        if not awakening.done():
            raise DeadlineExceeded
        awakening.result()

    def give_up(self, error: WorkerError) -> None:
        """Let all who wait for the model fail with this."""
        awakening, self._awakening = self._awakening, None
        _settle(awakening, error)

    async def _wake(self, awakening: "asyncio.Future[None]") -> None:
        error: Exception | None = WorkerUnavailable("the worker is shutting down")
        started = self._clock()
        try:
            async with self._changing:
                if self.since is not None and not awakening.done():
                    await self._load_weights()
                    self.since = None
                    self._watch()
                    log.info(logline("model_awake", seconds=self._clock() - started))
            error = None
        # Whatever it was, it is told to those who wait.
        except Exception as caught:  # noqa: BLE001
            error = caught
            log.warning(logline("wake_up_failed", error=type(error).__name__, text=str(error)))
        finally:
            if self._awakening is awakening:
                self._awakening = None
            _settle(awakening, error)

    def _watch(self) -> None:
        self._awake_since = self._clock()
        if self._idle_s is not None:
            self._watching = asyncio.get_running_loop().create_task(self._until_asleep(self._idle_s))

    async def _until_asleep(self, idle_s: float) -> None:
        while True:
            await asyncio.sleep(min(max(self._left(idle_s), LEAST_NAP_SECONDS), LONGEST_NAP_SECONDS))
            if self._left(idle_s) > 0:
                continue
            async with self._changing:
                # A request may have come while somebody else held the lock.
                if self._left(idle_s) <= 0 and await self._fall_asleep():
                    return

    def _left(self, idle_s: float) -> float:
        idle_since = self._idle_since()
        return idle_s if idle_since is None else max(idle_since, self._awake_since) + idle_s - self._clock()

    async def _fall_asleep(self) -> bool:
        self.since = datetime.now(UTC)
        asleep = False
        try:
            asleep = await self._drop_weights()
        except WorkerUnavailable:  # the engine has ended
            return True
        finally:
            if not asleep:
                self.since = None
        if asleep:
            log.info(logline("model_asleep", idle_s=self._idle_s))
        return asleep


def _settle(awakening: "asyncio.Future[None] | None", error: Exception | None) -> None:
    if awakening is None or awakening.done():
        return
    if error is None:
        awakening.set_result(None)
    else:
        awakening.set_exception(error)
