"""The one model of this process and how it changes: find, drop, load, serve; and free."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from backend.config import EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed, WorkerError
from backend.engine.loading import LoadedModel, ModelFiles, open_files
from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.preparing.building import build_preparer
from backend.engine.preparing.facts import LoadedFacts
from backend.engine.preparing.lanes import Lanes
from backend.engine.preparing.requests import RequestPreparer
from backend.engine.thread import EngineThread

log = logging.getLogger(__name__)

T = TypeVar("T")

# A load that is no longer wanted has this long to notice before its thread is left behind.
NOTICE_SECONDS = 1.0
# On the engine thread nothing can be left behind: one that shows no sign of life for so long ends the process.
NOTICE_SECONDS_ON_ENGINE = 30.0
# One piece of a load (an import, a file of weights, a kernel that is compiled) may take longer than any step.
LEAST_PATIENCE_SECONDS = 60.0
CLOSE_SECONDS = 0.2
POLL_SECONDS = 0.5


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
        cancelled_at: float | None = None
        while not work.done():
            await asyncio.wait([work], timeout=POLL_SECONDS if cancelled_at is None else NOTICE_SECONDS / 10)
            now, limit = self._clock(), self.patience_s
            if limit is not None and now - self._last_sign > limit:
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


class Loads:
    """Event loop only. Invariant: `current` prepares requests for the session that the engine thread has.

    Args:
        on_engine: What `work` returns, run by the engine thread between two steps; `WorkerUnavailable` if it has ended.
        load: Has the signature of `backend.engine.loading.load_model`.
    """

    def __init__(
        self,
        thread: EngineThread,
        on_engine: Callable[[Callable[[], Any]], Awaitable[Any]],
        load: Callable[..., LoadedModel],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thread = thread
        self._on_engine = on_engine
        self._load_model = load
        self._clock = clock
        self._lock = asyncio.Lock()
        self._attempt: Attempt | None = None
        self._attempts: set[Attempt] = set()  # with those that wait for their turn
        self._changes: set[asyncio.Task[None]] = set()
        self.current: RequestPreparer | None = None

    @property
    def loading(self) -> bool:
        """Whether a load runs."""
        return self._attempt is not None

    @property
    def patience_s(self) -> float | None:
        """How long the engine thread may be without a sign of life; None is for ever."""
        attempt, current = self._attempt, self.current
        if attempt is None:
            return (current.config.engine if current is not None else EngineConfig()).watchdog_s
        limit = attempt.patience_s
        if not attempt.cancelled:
            return limit
        return NOTICE_SECONDS_ON_ENGINE if limit is None else min(limit, NOTICE_SECONDS_ON_ENGINE)

    async def load(self, config: ModelConfig) -> None:
        """Load a model in place of the present one; nothing happens if this very configuration is loaded.

        Raises:
            ModelLoadFailed: With one line that names the file or field; no model is loaded then, unless it was the
                files that were wrong, in which case the present model stays.
            WorkerUnavailable: The engine is stopping or dead.
        """
        attempt = Attempt(config, self._clock)
        self._attempts.add(attempt)
        try:
            await self._to_its_end(self._load_in_turn(attempt))
        except asyncio.CancelledError:
            attempt.cancel()
            raise

    async def free(self) -> None:
        """Drop the model, ending its requests ABORTED, and stop all loads; harmless when there are neither."""
        self.cancel()
        await self._to_its_end(self._free_in_turn())

    def cancel(self) -> None:
        """Stop the load that runs and those that wait for it."""
        for attempt in self._attempts:
            attempt.cancel()

    async def close(self) -> None:
        """Stop what prepares requests; the engine thread has ended."""
        current, self.current = self.current, None
        if current is not None:
            current.closing.set()
            await _closed(current)

    async def _load_in_turn(self, attempt: Attempt) -> None:
        try:
            async with self._lock:
                if attempt.cancelled:
                    raise ModelLoadFailed("loading was cancelled")
                if self.current is not None and self.current.config == attempt.config:
                    return
                self._attempt = attempt
                await self._load(attempt)
        finally:
            self._attempts.discard(attempt)
            if self._attempt is attempt:
                self._attempt = None

    async def _load(self, attempt: Attempt) -> None:
        config = attempt.config
        # A dead engine refuses here, before anything is downloaded; a living one has imported MLX by then.
        await self._on_engine(lambda: None)
        opening = _in_thread("files", partial(open_files, config, cancelled=attempt.is_cancelled))
        files = await attempt.outcome_of("files", opening)
        await self._drop()
        try:
            facts = await self._on_engine(partial(self._install, attempt, files))
            self.current = await _preparer(attempt, facts, files)
        finally:
            if self.current is None:
                await self._on_engine(self._thread.drop_session)

    def _install(self, attempt: Attempt, files: ModelFiles) -> LoadedFacts:
        """Engine thread: load the model and serve it.

        Raises:
            ModelLoadFailed: Naming the file or field.
        """
        from backend.engine.batching.assembly import make_session  # imports MLX

        def is_cancelled() -> bool:
            self._thread.sign_of_life()
            return attempt.is_cancelled()

        config = attempt.config
        try:
            session = self._thread.install_session(
                lambda generation: make_session(
                    config,
                    generation,
                    loaded=self._load_model(config, files, cancelled=is_cancelled),
                    outbox=self._thread.outbox,
                    tell=self._thread.tell,
                    clock=self._clock,
                    cancelled=is_cancelled,
                )
            )
            return LoadedFacts.of(session.loaded, session.generation, session.memory_facts)
        except ModelLoadFailed as error:
            failed = error.message
        except FOREIGN as error:
            log.debug("load", exc_info=error)
            failed = f"{files.directory}: {type(error).__name__}: {one_line(error)}"
        # Out here: the exception's frames hold the model, which must not leave this thread.
        raise ModelLoadFailed(failed)

    async def _free_in_turn(self) -> None:
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        current, self.current = self.current, None
        if current is None:
            return
        # What waits on the prep thread is not worth preparing any more; closing comes after it.
        current.closing.set()
        await self._on_engine(self._thread.drop_session)
        await _closed(current)

    async def _to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Run a change of model whether or not its client stays: half of one would keep a process and memory."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # of a client that has left: seen, so that asyncio does not complain


async def _preparer(attempt: Attempt, facts: LoadedFacts, files: ModelFiles) -> RequestPreparer:
    """What prepares requests for the model, with prep threads of its own."""
    prep = Lanes()
    building = asyncio.ensure_future(prep.run(build_preparer, attempt.config, facts, files.tokenizer, prep))
    try:
        return await attempt.outcome_of("tokenizer", building)
    except BaseException:
        prep.shutdown()
        # One that comes after all has a process to stop.
        building.add_done_callback(_close_late)
        raise


def _close_late(building: "asyncio.Future[RequestPreparer]") -> None:
    if not building.cancelled() and building.exception() is None:
        _in_thread("close", building.result().close)


async def _closed(preparer: RequestPreparer) -> None:
    """Close it, on a thread of its own that is left behind if that takes long; those of its prep threads may hang."""
    preparer.prep.shutdown()
    await asyncio.wait([_in_thread("close", preparer.close)], timeout=CLOSE_SECONDS)


def _in_thread(name: str, work: Callable[[], T]) -> "asyncio.Future[T]":
    """Run `work` on a thread that the process does not wait for when it ends."""
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
            # Code of a checkpoint that ends the process would end the loop from here.
            error = ModelLoadFailed(one_line(caught)) if isinstance(caught, SystemExit) else caught
        # A loop that is closed has no waiter.
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    # Seen, so that asyncio does not complain of a thread that was left behind and failed after all.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    threading.Thread(target=run, name=name, daemon=True).start()
    return future
