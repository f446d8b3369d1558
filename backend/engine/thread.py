"""The one thread that owns every MLX object: it takes commands, steps the session, and answers for both."""

import gc
import importlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.core.errors import InternalFault, RequestAborted, WorkerError, WorkerUnavailable
from backend.core.events import Failed
from backend.core.logline import logline
from backend.engine.channel import AnswerStream, Outbox
from backend.engine.inbox import Call, Cancel, Command, Inbox, Stop, Submit
from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.picture import Before, EnginePicture
from backend.engine.reports import library_versions

if TYPE_CHECKING:
    # Importing the session imports mlx_lm: seconds that the open port must not wait for.
    from backend.engine.batching.asleep import Asleep
    from backend.engine.batching.session import Session
    from backend.engine.loading import LoadedModel

PICTURE_SECONDS = 0.1
# What is due is done no later than this after it; a clock that stands still costs no more than this either.
LEAST_WAIT_SECONDS = 0.05

log = logging.getLogger(__name__)


class EngineThread:
    """Runs until `Stop` or its own death; either way every request it knows gets exactly one end.

    Other threads may read `heartbeat`, `picture`, `alive` and put commands in the inbox; the rest is the thread's own.
    """

    def __init__(
        self,
        inbox: Inbox,
        outbox: Outbox,
        clock: Callable[[], float],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._inbox = inbox
        self.outbox = outbox
        self._clock = clock
        self._on_death = on_death
        self._stopping = False
        self._taken: deque[Command] = deque()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.session: Session | None = None
        self.asleep: Asleep | None = None  # what is there of a model whose weights are not
        self.generation = 0
        self.picture: EnginePicture | None = None
        self._before = Before()
        self.heartbeat: float | None = None  # when the step or call that runs now began; None between them

    @property
    def alive(self) -> bool:
        """Whether the thread still takes commands."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it came in time. A live MLX thread at exit aborts the process."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        cause: BaseException | None = None
        try:
            while not self._stopping:
                self._round()
        except BaseException as error:  # noqa: BLE001  the thread's last frame: whatever it was, waiters learn of it
            cause = error
            _say_fault(logging.CRITICAL, "engine_died", error)
        finally:
            self._close()
            if cause is not None:
                self._on_death(cause)

    def _round(self) -> None:
        busy = self.session is not None and self.session.busy
        self._taken.extend(self._inbox.take(0 if busy else self._wait()))
        cancelled: list[AnswerStream] = []
        while self._taken:
            # It stays first while it is obeyed: whatever happens then, `_close` finds it and ends it.
            command = self._taken[0]
            if isinstance(command, Cancel):
                cancelled.append(command.stream)
            else:
                self._obey(command)
            self._taken.popleft()
        if self.asleep is not None:
            self.asleep.tidy(self._clock())
        if self.session is not None:
            if cancelled:
                self.session.cancel(cancelled)
            if not self.session.busy:
                self.session.tidy()
            if self.session.busy:
                self.heartbeat = self._clock()
                self.session.step()
                self.heartbeat = None
        # First the picture, then the news: who hears that a request has ended may look at once.
        self._take_picture()
        self.outbox.flush()

    def _wait(self) -> float | None:
        """How long nothing but a command can give this thread something to do; None is for ever."""
        due = self.session.next_due() if self.session is not None else None
        if self.asleep is not None:
            due = self.asleep.prefix.next_due(self._clock())
        return None if due is None else max(LEAST_WAIT_SECONDS, due)

    def tell(self) -> None:
        """Engine thread only: let clients have what was posted so far; the step goes on."""
        if self.session is not None:
            self.picture = self._picture_of(self.session, self._clock())
        self.outbox.flush()

    def _take_picture(self) -> None:
        now = self._clock()
        idle = self.session is None or not self.session.busy
        if idle or self.picture is None or now - self.picture.at >= PICTURE_SECONDS:
            self.picture = self._picture_of(self.session or self.asleep, now)

    def _picture_of(self, shown: "Session | Asleep | None", now: float) -> EnginePicture:
        return replace(shown.picture(now) if shown else _empty_picture(now), before=self._before)

    def _obey(self, command: Submit | Call | Stop) -> None:
        match command:
            case Submit():
                self._submit(command)
            case Call(work, done):
                self._call(work, done)
            case Stop():
                self._stopping = True

    def _submit(self, command: Submit) -> None:
        if self.session is None or command.generation != self.generation:
            self.outbox.post(command.stream, Failed(error=RequestAborted("the model was unloaded")))
            return
        try:
            self.session.submit(command)
        except FOREIGN as error:
            _say_fault(logging.ERROR, "submit_failed", error, request_id=command.request.request_id)
            self.outbox.post(command.stream, Failed(error=InternalFault(f"not admitted: {type(error).__name__}")))

    def _call(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        # Events first: a caller that learns of a Free must find the streams it ended already ended.
        self.heartbeat = self._clock()
        try:
            result, error = work(), None
        except FOREIGN as caught:  # the caller's error, handed back to it
            result = None
            error = caught if isinstance(caught, Exception) else InternalFault(one_line(caught))
        self.heartbeat = None
        # As in a round: who hears that a load is over may look at once.
        self._take_picture()
        self.outbox.flush()
        done(result, error)

    def install_session(self, make: "Callable[[int, Asleep | None], Session]") -> "Session":
        """Engine thread only: drop the model, then load the next.

        Args:
            make: Builds the session of the generation it is given; whatever it raises leaves no model loaded.
        """
        self.drop_session()
        self.session = make(self.generation, None)
        return self.session

    def drop_session(self) -> None:
        """Engine thread only: end what runs ABORTED and drop the model, awake or asleep, if there is one."""
        old, self.session = self.session, None
        asleep, self.asleep = self.asleep, None
        self.generation += 1
        if old is not None:
            old.abort(lambda: RequestAborted("the model was unloaded"))
            if self.picture is not None:
                self.picture = replace(self.picture, counters=old.counters.copy())
            self.outbox.flush()
        if ended := old or asleep:
            self._close_for_good(ended)
            self._take_picture()

    def _close_for_good(self, ended: "Session | Asleep") -> None:
        """Its totals stay, even where closing it fails."""
        tells, figures = ended.prefix.tells, ended.prefix.figures()
        try:
            figures = ended.close()
        finally:
            self._before = self._before.and_also(ended.counters, figures, tells=tells)

    def put_to_sleep(self) -> "LoadedModel | None":
        """Engine thread only: drop the weights and keep the generation and the prompt cache.

        What is known of the model, frozen and without anything of MLX; None while there is work, or no model.
        """
        session = self.session
        if session is None or session.busy:
            return None
        self.asleep, self.session = session.asleep(), None
        try:
            session.close(keeps_cache=True)
        except FOREIGN as error:  # asleep all the same: it takes no requests
            _say_fault(logging.ERROR, "sleep_failed", error)
        return self.asleep.loaded

    def wake_session(self, make: "Callable[[int, Asleep | None], Session]") -> "Session":
        """Engine thread only: load the weights of the model that is asleep; whatever `make` raises leaves it so."""
        asleep = self.asleep
        if asleep is None:
            raise RequestAborted("the model was unloaded")
        self.session, self.asleep = make(self.generation, asleep), None
        return self.session

    def nudge(self) -> None:
        """Any thread: have a look whether there is something to do."""
        self._inbox.put(Call(lambda: None, lambda result, error: None))

    def sign_of_life(self) -> None:
        """Engine thread only: tell the watchdog that a long piece of work goes on."""
        self.heartbeat = self._clock()

    def _close(self) -> None:
        """Nothing is accepted from here on; everything accepted ends."""

        def unavailable() -> WorkerError:
            return WorkerUnavailable("the worker is shutting down" if self._stopping else "the engine has died")

        for command in (*self._taken, *self._inbox.close()):
            if isinstance(command, Submit):
                self.outbox.post(command.stream, Failed(error=unavailable()))
            elif isinstance(command, Call):
                command.done(None, unavailable())
        session, self.session = self.session, None
        asleep, self.asleep = self.asleep, None
        try:
            if session is not None:
                session.abort(unavailable)
                # Before what may take its time: clients have their ends.
                self.outbox.flush()
                session.close()
            if asleep is not None:
                asleep.close()
        except FOREIGN as error:  # the ends below must still go out
            _say_fault(logging.ERROR, "session_close_failed", error)
        self.outbox.flush()


def _say_fault(level: int, event: str, error: BaseException, **facts: object) -> None:
    """Name what went wrong. Its text and its frames may hold a client's, so only the debug log has those."""
    log.log(level, logline(event, error=type(error).__name__, **facts))
    log.debug(event, exc_info=error)


def warm_up(blas: str) -> str:
    """Engine thread: choose the BLAS, then import MLX and what serves a model; the order matters. What BLAS runs.

    Raises:
        BlasNotFound: A named library cannot be loaded.
    """
    from backend.engine.loading.blas import load_blas

    # What Info tells of them is read here, from the disk, and not on the event loop when somebody asks.
    library_versions()
    running = load_blas(blas)
    importlib.import_module("backend.engine.batching.assembly")
    # A full collection looks at every object, 40 ms with the interpreter lock held. Nearly all are the libraries'.
    gc.freeze()
    return running


def _empty_picture(now: float) -> EnginePicture:
    """What it looks like while no model is loaded; while MLX is not imported either, nothing is."""
    mx: Any = sys.modules.get("mlx.core")
    if mx is None or not hasattr(mx, "get_cache_memory"):
        return EnginePicture(at=now)
    return EnginePicture(
        at=now,
        active_bytes=mx.get_active_memory(),
        peak_bytes=mx.get_peak_memory(),
        buffer_pool=mx.get_cache_memory(),
    )
