"""Writes lines to a descriptor whose reader may be slow, gone, or never come."""

import contextlib
import io
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

MAX_WAITING_BYTES: Final = 1 << 20


class LogWriter:
    """Takes lines from any thread without ever waiting, and writes them from a thread of its own.

    Lines that find `most_bytes` of others waiting are dropped; how many is said, in a line of `dropped`'s, as soon
    as the reader has read on. The thread is a daemon and may be stuck in a write for ever: the process must not wait
    for it. What a reader that has gone away cannot get is thrown away.
    """

    def __init__(self, descriptor: int, dropped: Callable[[int], str], *, most_bytes: int = MAX_WAITING_BYTES) -> None:
        self._descriptor = descriptor
        self._say_dropped = dropped
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0  # of what is being written too
        self._dropped = 0
        self._finished = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: str) -> None:
        """Queue a line, without its newline."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._finished:
                return
            if self._waiting_bytes + len(data) > self._most_bytes:
                self._dropped += 1
                return
            self._tell_dropped()
            self._put(data)

    def finish(self, line: str) -> None:
        """Queue the last line, which is never dropped; what comes later is thrown away, another last line too."""
        with self._changed:
            if not self._finished:
                self._tell_dropped()
                self._put(f"{line}\n".encode(errors="backslashreplace"))
                self._finished = True

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written, `seconds` at most; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting_bytes, seconds)

    def _put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._changed.notify_all()

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._put(f"{self._say_dropped(dropped)}\n".encode())

    def _run(self) -> None:
        while True:
            data = self._next()
            with contextlib.suppress(OSError):  # nobody reads any more
                _write_all(self._descriptor, data)
            with self._changed:
                self._waiting_bytes -= len(data)
                if not self._waiting_bytes:
                    self._tell_dropped()
                self._changed.notify_all()

    def _next(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            return self._waiting.popleft()


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # a descriptor that its owner made non-blocking
            time.sleep(0.05)


class LineStream(io.TextIOBase):
    """A text stream over a writer of lines, for what libraries print: their writes never wait either."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write_line = write
        self._lock = threading.Lock()
        self._rest = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Pass on the lines that are complete; a progress bar's redrawn line (`\\r`) counts as one."""
        with self._lock:
            *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
            if len(self._rest) > MAX_WAITING_BYTES:
                lines, self._rest = [*lines, self._rest], ""
        self._pass_on(lines)
        return len(text)

    def flush(self) -> None:
        """Nothing to do: a line that is not complete stays until it is."""

    def _pass_on(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.strip():
                self._write_line(line)


def without_waiting(descriptor: int) -> None:
    """Let nothing that writes to this pipe directly, as native libraries do, wait for its reader: it loses its words.

    The pipe is opened anew for that, since the flag would belong to the host's end of it too. Only Linux can, and
    only for pipes of our own user; what is no pipe stays as it is.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
        anew = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.dup2(anew, descriptor)
        os.close(anew)
