"""The engine without its thread: a test says when it takes a round, and time is a clock of its own."""

import asyncio
import importlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from backend.engine.batching.session import Session
from backend.engine.disk_threads import DiskThreads, Job
from backend.engine.handle import EngineHandle
from backend.engine.inbox import Cancel, Stop
from backend.engine.loading import LoadedModel, load_model
from backend.engine.loading.blas import load_blas

T = TypeVar("T")
_start = DiskThreads.start
TICK_SECONDS = 0.0005
WAIT_SECONDS = 20.0


class Ticks:
    """Monotonic seconds that pass while the engine works, a tick for each time that it asks, and when a test says so.

    Whatever other threads ask, and however often, moves nothing: the same calls give the same times.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.runs = False
        self._owner = threading.get_ident()

    def __call__(self) -> float:
        """Seconds."""
        if self.runs and threading.get_ident() == self._owner:
            self.now += TICK_SECONDS
        return self.now


def at_once(threads: DiskThreads, job: Job[T]) -> Job[T]:
    """`DiskThreads.start`, which comes back when the job is done: what runs beside it would be chance."""
    started = _start(threads, job)
    assert started.wait(WAIT_SECONDS)
    return started


class SteppedEngine:
    """A real handle, session and model on the thread of the test. What the engine thread would do between two commands
    happens in `round`, and nothing else does: a history can be told again."""

    def __init__(self, *, load: Callable[..., LoadedModel] = load_model) -> None:
        load_blas("reference")
        importlib.import_module("backend.engine.batching.assembly")
        self.clock = Ticks()
        self._loop = asyncio.new_event_loop()

        async def made() -> EngineHandle:
            return EngineHandle(load=load, clock=self.clock)

        self.handle = self._loop.run_until_complete(made())
        self._thread = self.handle._thread

    @property
    def session(self) -> Session | None:
        """What serves the model that is loaded."""
        return self._thread.session

    def until(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what the event loop does; the engine obeys meanwhile, and takes no step."""
        task = self._loop.create_task(work)
        while not task.done():
            self._obey()
            self._let_run(0.0002)
        self._hand_on()
        return task.result()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begin what goes on beside the engine, in `round`."""
        return self._loop.create_task(work)

    def submitted(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begin what asks the engine something, and come back when it has it, or will never have."""
        # What was submitted before, and is not taken yet, must not be taken for this.
        self._obey()
        task, session = self._loop.create_task(work), self.session
        before = session.counters.requests if session is not None else 0
        while not task.done() and (session is None or session.counters.requests == before):
            self._obey()
            self._let_run(0.0002)
        self._hand_on()
        return task

    def round(self) -> None:
        """One round of the engine thread, with the disk at rest before and after; then the event loop has the news."""
        # With something in its inbox it waits for nothing.
        self._thread.nudge()
        self.clock.runs = True
        self._thread._round()
        self.clock.runs = False
        self.rest_disk()
        self._hand_on()

    def _hand_on(self) -> None:
        """Let everybody have the news: an end that nobody reads in pieces goes through as many hands."""
        for _ in range(4):
            self._let_run(0)

    def rest_disk(self) -> None:
        """Wait until nothing of the prompt cache is on its way to the disk."""
        tier = self.session.prefix._store.disk.tier if self.session is not None else None
        if tier is not None:
            tier.flush(WAIT_SECONDS)

    def close(self) -> None:
        """As at the end of a worker."""
        self.handle._inbox.put(Stop())
        self._thread._run()
        # It has ended already, here.
        self._thread.join = lambda timeout=None: True  # type: ignore[method-assign]
        self._loop.run_until_complete(self.handle.close())
        self._let_run(0)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _obey(self) -> None:
        for command in self._thread._inbox.take(0):
            if isinstance(command, Cancel):
                if self.session is not None:
                    self.session.cancel([command.stream])
            else:
                self._thread._obey(command)
        self._thread.outbox.flush()

    def _let_run(self, seconds: float) -> None:
        self._loop.run_until_complete(asyncio.sleep(seconds))
