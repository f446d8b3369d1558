"""The one thread that owns every MLX object: it takes commands, steps the session, and answers for both."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend.core.errors import InternalFault, RequestAborted, WorkerError, WorkerUnavailable
from backend.core.events import Failed
from backend.engine.channel import AnswerStream, Outbox
from backend.engine.inbox import Call, Cancel, Command, Inbox, Stop, Submit
from backend.engine.picture import EnginePicture

if TYPE_CHECKING:
    # Importing the session imports mlx_lm: seconds that the open port must not wait for.
    from backend.engine.batching.session import Session

SNAPSHOT_SECONDS = 0.1

log = logging.getLogger(__name__)


class EngineThread:
    """Runs until `Stop` or its own death; either way every request it knows gets exactly one end.

    Other threads may read `heartbeat`, `snapshot`, `alive` and put commands in the inbox; the rest is the thread's own.
    """

    def __init__(
        self,
        inbox: Inbox,
        outbox: Outbox,
        clock: Callable[[], float],
        on_death: Callable[[BaseException], None],
        empty: Callable[[float], EnginePicture],
    ) -> None:
        """`empty(now)` is the picture while no model is loaded."""
        self._inbox = inbox
        self.outbox = outbox
        self._clock = clock
        self._on_death = on_death
        self._empty = empty
        self._stopping = False
        self._taken: deque[Command] = deque()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.session: Session | None = None
        self.generation = 0
        self.snapshot: EnginePicture | None = None
        self.heartbeat: float | None = None  # when the step that runs now began; None between steps

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
        except BaseException as error:  # the last frame of the thread: whatever it was, waiters learn of it
            cause = error
            log.critical("event=engine_died error=%r", repr(error)[:300], exc_info=error)
        finally:
            self._close()
            if cause is not None:
                self._on_death(cause)

    def _round(self) -> None:
        busy = self.session is not None and self.session.busy
        self._taken.extend(self._inbox.take(0 if busy else None))
        cancelled: list[AnswerStream] = []
        while self._taken:
            # It stays first while it is obeyed: whatever happens then, `_close` finds it and ends it.
            command = self._taken[0]
            if isinstance(command, Cancel):
                cancelled.append(command.stream)
            else:
                self._obey(command)
            self._taken.popleft()
        if self.session is not None:
            if cancelled:
                self.session.cancel(cancelled)
            if self.session.busy:
                self.heartbeat = self._clock()
                self.session.step()
                self.heartbeat = None
        # First the picture, then the news: who hears that a request has ended may look at once.
        self._picture()
        self.outbox.flush()

    def _picture(self) -> None:
        now = self._clock()
        idle = self.session is None or not self.session.busy
        if idle or self.snapshot is None or now - self.snapshot.at >= SNAPSHOT_SECONDS:
            self.snapshot = self.session.snapshot(now) if self.session else self._empty(now)

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
        except Exception as error:
            log.exception("event=submit_failed request_id=%s", command.request.request_id)
            self.outbox.post(command.stream, Failed(error=InternalFault(f"not admitted: {type(error).__name__}")))

    def _call(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        # Events first: a caller that learns of a Free must find the streams it ended already ended.
        try:
            result, error = work(), None
        except Exception as caught:  # noqa: BLE001  the caller's error, handed back to it
            result, error = None, caught
        self.outbox.flush()
        done(result, error)

    def replace_session(self, make: "Callable[[int], Session] | None") -> "Session | None":
        """Engine thread only: end what runs, drop the model, then load the next, if any.

        Args:
            make: Builds the session of the generation it is given; whatever it raises leaves no model loaded.
        """
        old, self.session = self.session, None
        self.generation += 1
        if old is not None:
            old.abort(lambda: RequestAborted("the model was unloaded"))
            self.outbox.flush()
            old.close()
            del old
        if make is not None:
            self.session = make(self.generation)
        return self.session

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
        if session is not None:
            try:
                session.abort(unavailable)
                session.close()
            except Exception:  # the ends below must still go out
                log.exception("event=session_close_failed")
        self.outbox.flush()
