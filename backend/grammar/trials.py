"""The worker's end of the trial process."""

import contextlib
import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from backend.confined.frames import Frames, framed, pack, unpack
from backend.confined.spawning import close_pipes, kill, spawn
from backend.core.errors import InternalFault, WorkerError, WorkerUnavailable
from backend.core.logline import logline
from backend.core.request import Grammar
from backend.core.silence import Silence
from backend.grammar.trial import Passed, Refused, outcome_from
from backend.grammar.trial_process import vocabulary_frame
from backend.grammar.vocabulary import Vocabulary

log = logging.getLogger(__name__)

Outcome = Passed | Refused
TRIES = 2  # the process may have died while it was idle, which is no grammar's fault
# Between two looks whether the process, which hands all work on and so is always quick to answer, still does.
LOOK_S = 1.0
# It may have to start first, on a busy machine.
SILENT_S = 30.0
_CHUNK = 1 << 16


class Trials:
    """Owns the trial process. Any thread; none of the methods waits for a grammar, or for the process to start.

    One thread writes to the process, for pipes fill up, and one reads what it answers. A process that answers nothing,
    not even that it is there, is killed.
    Invariant: a future is in `_pending` exactly while it has no result.

    Args:
        silent_s: How long the process may be silent while something is pending.
    """

    def __init__(self, vocabulary: Vocabulary, *, silent_s: float = SILENT_S) -> None:
        self._vocabulary = vocabulary
        self._silent_s = silent_s
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[Grammar, Future[Outcome], int]] = {}  # with the tries left
        self._last = 0
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._fed: subprocess.Popen[bytes] | None = None  # the writer's: whose input it must close
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="grammar-out", daemon=True)
        self._writer.start()

    @property
    def pid(self) -> int | None:
        """The trial process, if one runs."""
        process = self._process
        return process.pid if process else None

    def start(self) -> None:
        """Start the process early; the first trial would."""
        self._work.put(self._start)

    def submit(self, grammar: Grammar) -> "tuple[int, Future[Outcome]]":
        """Try a grammar out; the number is for `drop`.

        Raises:
            WorkerUnavailable: Closed.
        """
        future: Future[Outcome] = Future()
        with self._lock:
            if self._closed:
                raise WorkerUnavailable("the grammar compiler is closed")
            self._last += 1
            number = self._last
            self._pending[number] = (grammar, future, TRIES)
        self._work.put(lambda: self._send(number))
        return number, future

    def drop(self, number: int) -> None:
        """Nobody wants it any more; its future gets no result."""
        with self._lock:
            self._pending.pop(number, None)
        self._work.put(lambda: self._send_drop(number))

    def close(self) -> None:
        """Kill the process, whatever it is at; everything pending fails with `WorkerUnavailable`."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            kill(process)
        self._work.put(None)
        self._fail_all(WorkerUnavailable("the grammar compiler is closed"))

    # The writer's

    def _write(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except OSError:
                pass  # the process died: its reader sees that too, and sends what is pending again
            except WorkerError as error:
                self._fail_all(error)
        self._close_input()

    def _close_input(self) -> None:
        # Here alone: closed by another thread, its number might be a new file's before a write that has begun.
        fed, self._fed = self._fed, None
        if fed is not None and fed.stdin is not None:
            with contextlib.suppress(OSError):
                fed.stdin.close()

    def _start(self) -> None:
        self._running()

    def _running(self) -> "subprocess.Popen[bytes] | None":
        """The process, started if there is none; None once this is closed."""
        with self._lock:
            if self._closed or self._process is not None:
                return self._process
        self._close_input()
        self._fed = process = spawn("backend.grammar.trial_process")
        with self._lock:
            if not self._closed:
                self._process = process
        if self._process is None:
            kill(process)
        try:
            threading.Thread(target=self._read, args=(process,), name="grammar-in", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._process = None
            kill(process)
            close_pipes(process)
            self._fed = None
            raise InternalFault(f"cannot hear the process that compiles grammars: {error}") from None
        _write_all(process, framed(vocabulary_frame(self._vocabulary)))
        return process

    def _send(self, number: int) -> None:
        pending = self._pending.get(number)
        if pending is None:
            return
        frame = pack({"id": number, "kind": pending[0].kind, "text": pending[0].text})
        process = self._running()
        if process is not None:
            _write_all(process, frame)

    def _send_drop(self, number: int) -> None:
        if self._fed is not None:
            _write_all(self._fed, pack({"drop": number}))

    # The reader's

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as source:
            frames, poll = Frames(), select.poll()
            poll.register(source, select.POLLIN)
            silence, asked_at = Silence(time.monotonic, LOOK_S), None
            while True:
                if poll.poll(1000 * LOOK_S):
                    data = os.read(source.fileno(), _CHUNK)
                    if not data:
                        break
                    asked_at = None
                    for answer in map(unpack, frames.push(data)):
                        if "id" in answer:
                            self._settle(answer["id"], outcome_from(answer))
                elif asked_at is None and self._pending:
                    asked_at = time.monotonic()
                    self._work.put(lambda: _write_all(process, pack({"ask": "there"})))
                if silence.since(asked_at) > self._silent_s:
                    log.warning(logline("grammar_process_hangs", seconds=self._silent_s))
                    kill(process)
        self._ended(process)

    def _settle(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            pending = self._pending.pop(number, None)
        if pending is not None:
            pending[1].set_result(outcome)

    def _ended(self, process: "subprocess.Popen[bytes]") -> None:
        kill(process)
        with self._lock:
            if self._process is process:
                self._process = None
            again = [] if self._closed else list(self._pending)
            died = not self._closed
        if died:
            log.warning(logline("grammar_process_died", code=process.returncode, pending=len(again)))
        for number in again:
            self._try_again(number)

    def _try_again(self, number: int) -> None:
        with self._lock:
            pending = self._pending.pop(number, None)
            if pending is None:
                return
            grammar, future, tries = pending
            if tries > 1:
                self._pending[number] = (grammar, future, tries - 1)
        if tries > 1:
            self._work.put(lambda: self._send(number))
        else:
            future.set_exception(InternalFault("the process that compiles grammars died"))

    def _fail_all(self, error: WorkerError) -> None:
        with self._lock:
            futures = [future for _, future, _ in self._pending.values()]
            self._pending.clear()
        for future in futures:
            future.set_exception(error)


def _write_all(process: "subprocess.Popen[bytes]", frame: bytes) -> None:
    assert process.stdin is not None
    unsent = memoryview(frame)
    while unsent:
        unsent = unsent[process.stdin.write(unsent) or 0 :]
