"""The one model of this process and how it changes: find, drop, load, serve, put to sleep and wake; and free."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.config import EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed, ModelNotLoaded, RequestAborted, WorkerError, WorkerUnavailable
from backend.core.logline import logline
from backend.engine.attempt import NOTICE_SECONDS_ON_ENGINE, Attempt, close_in_thread, in_thread
from backend.engine.loading import LoadedModel, ModelFiles, open_files
from backend.engine.loading.checkpoint import check_weights
from backend.engine.loading.disk import OpenDisk, open_disk
from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.preparing.facts import LoadedFacts
from backend.engine.preparing.opening import close_preparer, open_preparer
from backend.engine.preparing.requests import RequestPreparer
from backend.engine.sleep import Sleep
from backend.engine.thread import EngineThread

if TYPE_CHECKING:
    from backend.engine.batching.asleep import Asleep
    from backend.engine.batching.session import Session

log = logging.getLogger(__name__)

# A disk that takes longer to list a directory is of no use to requests either.
OPEN_DISK_SECONDS = 10.0


class Loads:
    """Event loop only. Invariant: `current` prepares requests for what the engine thread has, awake or asleep.

    Args:
        idle_since: When the last request ended, on `clock`; None while there is one.
        on_engine: What `work` returns, run by the engine thread between two steps; `WorkerUnavailable` if it has ended.
        load: Has the signature of `backend.engine.loading.load_model`.
    """

    def __init__(
        self,
        thread: EngineThread,
        on_engine: Callable[[Callable[[], Any]], Awaitable[Any]],
        load: Callable[..., LoadedModel],
        *,
        idle_since: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thread = thread
        self._on_engine = on_engine
        self._load_model = load
        self._clock = clock
        self._turn = asyncio.Lock()  # of loads and frees
        changing = self._changing = asyncio.Lock()  # what the engine thread has; not held while a load finds its files
        self._sleep = Sleep(changing, self._put_to_sleep, self._wake, idle_since=idle_since, clock=clock)
        self._files: ModelFiles | None = None  # of the current model
        self._known: LoadedModel | None = None  # of the model that is asleep
        self._attempt: Attempt | None = None
        self._waking: Attempt | None = None
        self._attempts: set[Attempt] = set()  # with those that wait for their turn
        self._changes: set[asyncio.Task[None]] = set()
        self.current: RequestPreparer | None = None

    @property
    def loading(self) -> bool:
        """Whether a load runs, or one of weights that were dropped."""
        return self._attempt is not None or self._waking is not None

    @property
    def asleep_since(self) -> datetime | None:
        """Since when the weights are not there, of a model that is loaded all the same; UTC."""
        return self._sleep.since

    async def awake(self, deadline: float | None = None) -> None:
        """Wait for the weights, which are loaded again if they were dropped; `Sleep.awake` says what it raises."""
        await self._sleep.awake(deadline)

    @property
    def patience_s(self) -> float | None:
        """How long the engine thread may be without a sign of life; None is for ever."""
        attempt, current = self._waking or self._attempt, self.current
        if attempt is None:
            return (current.config.engine if current is not None else EngineConfig()).watchdog_s
        limit = attempt.patience_s
        if not attempt.cancelled:
            return limit
        return NOTICE_SECONDS_ON_ENGINE if limit is None else min(limit, NOTICE_SECONDS_ON_ENGINE)

    async def load(self, config: ModelConfig) -> None:
        """Load a model in place of the present one; if this very configuration is loaded, it is woken up at most.

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
        self.cancel(RequestAborted("the model was unloaded"))
        await self._to_its_end(self._free_in_turn())

    def cancel(self, error: WorkerError) -> None:
        """Stop the load that runs and those that wait for it; requests that wait for weights fail with this."""
        for attempt in self._attempts:
            attempt.cancel()
        self._sleep.give_up(error)

    async def close(self) -> None:
        """Stop what prepares requests; the engine thread has ended."""
        self._sleep.end()
        current, self.current = self.current, None
        if current is not None:
            current.closing.set()
            await close_preparer(current)

    async def _load_in_turn(self, attempt: Attempt) -> None:
        try:
            async with self._turn:
                if attempt.cancelled:
                    raise ModelLoadFailed("loading was cancelled")
                if self.current is not None and self.current.config == attempt.config and await self._serves(attempt):
                    return
                self._attempt = attempt
                await self._load(attempt)
        finally:
            self._attempts.discard(attempt)
            if self._attempt is attempt:
                self._attempt = None

    async def _serves(self, attempt: Attempt) -> bool:
        """Whether the present model has its weights or gets them again; else it has to be loaded from the start."""
        try:
            await self._sleep.awake()
        except WorkerUnavailable:
            raise
        except WorkerError:
            if attempt.cancelled:
                raise ModelLoadFailed("loading was cancelled") from None
            return False
        return True

    async def _load(self, attempt: Attempt) -> None:
        config = attempt.config
        # A dead engine refuses here, before anything is downloaded; a living one has imported MLX by then.
        await self._on_engine(lambda: None)
        opening = in_thread("files", partial(open_files, config, cancelled=attempt.is_cancelled))
        files = await attempt.outcome_of("files", opening)
        async with self._changing:
            await self._drop()
            # After the drop: a directory is flushed to by the model before, and then read for this one.
            disk = await _opened(attempt)
            try:
                install = partial(self._install, attempt, files, self._thread.install_session, disk)
                facts = await self._on_engine(install)
                self.current = await open_preparer(attempt, facts, files)
            finally:
                if self.current is None:
                    await self._on_engine(self._thread.drop_session)
                    if isinstance(disk, OpenDisk):
                        close_in_thread("disk", disk.close)
            self._files = files
            self._sleep.begin(_idle_s(config.engine, facts))

    def _install(
        self,
        attempt: Attempt,
        files: ModelFiles,
        put: "Callable[[Callable[[int, Asleep | None], Session]], Session]",
        disk: OpenDisk | str = "",
    ) -> LoadedFacts:
        """Engine thread: load the model and serve it.

        Args:
            put: Calls what makes the session, and makes it the thread's.
            disk: The prompt cache's, or why there is none.

        Raises:
            ModelLoadFailed: Naming the file or field.
        """
        from backend.engine.batching.assembly import make_session, return_memory  # imports MLX

        def is_cancelled() -> bool:
            self._thread.sign_of_life()
            return attempt.is_cancelled()

        config = attempt.config

        def make(generation: int, asleep: "Asleep | None") -> "Session":
            known = asleep.loaded if asleep else None
            return make_session(
                config,
                generation,
                loaded=self._load_model(config, files, cancelled=is_cancelled, known=known),
                outbox=self._thread.outbox,
                tell=self._thread.tell,
                clock=self._clock,
                asleep=asleep,
                disk=disk,
                notify=self._thread.nudge,
                cancelled=is_cancelled,
            )

        try:
            session = put(make)
            return LoadedFacts.of(session.loaded, session.generation, session.memory_facts)
        except ModelLoadFailed as error:
            failed = error.message
        except FOREIGN as error:
            log.debug("load", exc_info=error)
            failed = f"{files.directory / 'config.json'}: {type(error).__name__}: {one_line(error)}"
        # Out here: the exception's frames hold the model, which must not leave this thread.
        return_memory()
        raise ModelLoadFailed(failed)

    async def _free_in_turn(self) -> None:
        async with self._turn, self._changing:
            await self._drop()

    async def _drop(self) -> None:
        current, self.current = self.current, None
        if current is None:
            return
        self._sleep.end()
        self._files = self._known = None
        # What waits on the prep thread is not worth preparing any more; closing comes after it.
        current.closing.set()
        await self._on_engine(self._thread.drop_session)
        await close_preparer(current)

    async def _put_to_sleep(self) -> bool:
        self._known = await self._on_engine(self._thread.put_to_sleep)
        return self._known is not None

    async def _wake(self) -> None:
        """Load the weights of the model that is asleep, from the files that it was loaded from.

        Raises:
            ModelLoadFailed: It stays asleep.
            ModelNotLoaded: They are others now; the model was dropped.
        """
        current, files, known = self.current, self._files, self._known
        assert current is not None
        assert files is not None
        assert known is not None
        with self._awakening(current.config) as attempt:
            looking = in_thread("files", partial(_unchanged, files, known))
            if await attempt.outcome_of("files", looking):
                await self._on_engine(partial(self._install, attempt, files, self._thread.wake_session))
                return
        log.warning(logline("model_changed", path=files.directory, text="dropped: its files are not those it was of"))
        await self._drop()
        raise ModelNotLoaded

    @contextmanager
    def _awakening(self, config: ModelConfig) -> Generator[Attempt]:
        attempt = self._waking = Attempt(config, self._clock)
        self._attempts.add(attempt)
        try:
            yield attempt
        except ModelLoadFailed as error:
            # Hosts look for the words "model not loaded".
            words = "mlx: model not loaded: it was idle, and could not be loaded again"
            raise ModelLoadFailed(f"{words}: {error.message}") from None
        finally:
            self._attempts.discard(attempt)
            self._waking = None

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


async def _opened(attempt: Attempt) -> OpenDisk | str:
    """The prompt cache's directory, or why there is none: empty where none is asked for."""
    config = attempt.config
    if not config.cache.directory or config.cache.max_sequences == 0:
        return ""
    opening = in_thread("disk", partial(open_disk, config.cache, config.model_path))
    done, _ = await asyncio.wait([opening], timeout=OPEN_DISK_SECONDS)
    error = opening.exception() if done else None
    if done and error is None:
        return opening.result()
    opening.add_done_callback(_close_late)
    why = one_line(error) if error else f"has not answered for {OPEN_DISK_SECONDS:g} s"
    reason = f"{config.cache.directory}: {why}"
    log.warning(logline("prompt_cache_disk_off", reason=reason))
    return reason


def _close_late(opening: "asyncio.Future[OpenDisk | str]") -> None:
    if not opening.cancelled() and opening.exception() is None and isinstance(disk := opening.result(), OpenDisk):
        close_in_thread("disk", disk.close)


def _idle_s(engine: EngineConfig, facts: LoadedFacts) -> float | None:
    """After how long an idle model may sleep; None is never."""
    if engine.model_idle_s is not None and facts.runs_own_code:
        # What code does that is run anew, with classes that are others then, nothing here can know.
        log.warning(logline("model_idle_not_used", reason="the model runs code of its own"))
        return None
    return engine.model_idle_s


def _unchanged(files: ModelFiles, known: LoadedModel) -> bool:
    """Whether the files are those that the model is known of. Any thread.

    Raises:
        ModelLoadFailed: There are none, or half of them.
    """
    check_weights(files.directory)
    if known.draft is not None and known.draft.namespace_now() != known.draft.namespace:
        return False
    return known.namespace_now() == known.namespace
