"""Threads that wait for the prompt cache's disk, so that the engine thread never does."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from backend.core.logline import logline

log = logging.getLogger(__name__)

# One that hangs leaves another; with both hanging the disk is not asked any more.
THREADS = 2

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """Work that waits for a disk. Any thread may cancel it; `result` is there once `done`.

    Attributes:
        result: What the work gave; None if it failed or was given up before it began.
    """

    work: Callable[["Job[T]"], T]
    told: Callable[[], None]
    result: T | None = None
    _done: threading.Event = field(default_factory=threading.Event)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether the work is over, or will never be begun."""
        return self._done.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until the work is over; whether it is."""
        return self._done.wait(timeout)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled.set()

    def give_up(self) -> None:
        """It will not be begun."""
        self._done.set()
        self.told()

    def run(self) -> None:
        """On a thread of `DiskThreads`."""
        try:
            if not self.cancelled:
                self.result = self.work(self)
        except Exception as error:  # whatever a disk does, it costs a hit at most
            log.warning(logline("disk_work_failed", error=type(error).__name__))
            log.debug("disk_work", exc_info=error)
        finally:
            self._done.set()
            self.told()


class DiskThreads:
    """Runs jobs in their order, on threads that the process does not wait for.

    Threads go from one `DiskThreads` that was closed to the next: MLX leaves a thread of its own behind for each that
    has evaluated an array, and every load has its own `DiskThreads`.
    """

    def __init__(self, n: int = THREADS) -> None:
        self._jobs: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._n = n
        self._threads = 0
        self._running_jobs: dict[int, Job[object]] = {}

    @property
    def responsive(self) -> bool:
        """Whether any thread is free, or busy with something that is still waited for."""
        running = list(self._running_jobs.values())
        return len(running) < self._n or any(not job.cancelled for job in running)

    def start(self, job: "Job[T]") -> "Job[T]":
        """Run a job; `job.told` is called on its thread when it is over. It is given up where there is no thread."""
        self.begin()
        if self._threads:
            self._jobs.put(job)  # type: ignore[arg-type]
        else:
            job.give_up()
        return job

    def begin(self) -> None:
        """Start the threads early, as many as the system lets; the first job would."""
        try:
            while self._threads < self._n:
                _serve(self._run)
                self._threads += 1
        except RuntimeError as error:  # the system has no more for us: later, perhaps
            log.warning(logline("disk_thread_not_started", error=type(error).__name__))

    def close(self) -> None:
        """Let the threads go after what waits; one that hangs is left behind."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._running_jobs[id(job)] = job
            try:
                job.run()
            finally:
                del self._running_jobs[id(job)]
            # Its result may be the KV of a whole prompt, and the next job may be long in coming.
            del job


_spare: list["queue.SimpleQueue[Callable[[], None]]"] = []


def _serve(run: Callable[[], None]) -> None:
    """Run it on a thread that has nothing to do, or else on a new one."""
    try:
        waiting = _spare.pop()
    except IndexError:
        waiting = queue.SimpleQueue()
        threading.Thread(target=_run_one_after_another, args=(waiting,), name="disk", daemon=True).start()
    waiting.put(run)


def _run_one_after_another(waiting: "queue.SimpleQueue[Callable[[], None]]") -> None:
    while True:
        waiting.get()()
        _spare.append(waiting)
