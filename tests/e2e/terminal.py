"""A program in a pseudo-terminal, as a person has it before them."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from types import TracebackType
from typing import NamedTuple

from tests.e2e.worker import ROOT

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\r")
COLUMNS, ROWS = 100, 40
# Its own session's terminal: only so does Ctrl-C become a signal.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "terminal = os.open(sys.argv[1], os.O_RDWR)\n"
    "fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)\n"
    "for descriptor in range(3): os.dup2(terminal, descriptor)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n"
)
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


def environment(**added: str) -> dict[str, str]:
    """This process's, without what would tell a worker where to be."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLX_WORKER_", "LOCALAI_"))}
    return kept | {"TERM": "xterm-256color", "MLX_WORKER_BLAS": "reference", "HF_HUB_OFFLINE": "1"} | added


class Ran(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def in_this_process(command: Callable[[], int]) -> Ran:
    """Run a command here: starting another process each time takes longer than what it does.

    It takes signals that are this process's own: they are as before afterwards.
    """
    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = command()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Ran(code, out.getvalue(), err.getvalue())


class Terminal:
    """`python -m backend` with these arguments. Leaving expects that it has ended."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._arguments: Sequence[str] = arguments
        self._env = dict(env or environment())
        self.raw = ""
        self._changed = threading.Condition()
        self._ended = False

    def __enter__(self) -> "Terminal":
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        command = [sys.executable, "-c", _IN_TERMINAL, os.ttyname(slave), "-m", "backend", *self._arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self._env, start_new_session=True)
        threading.Thread(target=self._read, daemon=True).start()
        # The program has its own by the time that this end goes: what it writes first waits in the terminal.
        self._slave = slave
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
            assert error is not None, f"it has not ended:\n{self.text[-2000:]}"
        os.close(self._slave)
        with self._changed:
            self._changed.wait_for(lambda: self._ended, 5)
        os.close(self._master)

    @property
    def text(self) -> str:
        """All that was written, without what moves the cursor or colours."""
        return ESCAPES.sub("", self.raw)

    def type(self, text: str) -> None:
        """Type a line."""
        self.press(f"{text}\r")

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def interrupt_line(self, done: Callable[[], bool]) -> None:
        """Press Ctrl-C where a line is asked for, until it is `done`.

        Python's line editor shows its prompt and only then waits: a signal between the two is held until a key comes.
        """
        for _ in range(3):
            self.press(CTRL_C)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if done():
                    return
                time.sleep(0.01)
        raise AssertionError(f"Ctrl-C changes nothing:\n{self.text[-2000:]}")

    def wait_for(self, pattern: str, seconds: float = 60.0, *, after: int = 0) -> re.Match[str]:
        """The first match in `text` from place `after` on; fails when the program ends without one."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.compile(pattern, re.DOTALL).search(self.text, after)
            found.extend([match] if match else [])
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(look, seconds)
        assert found, f"nothing matches {pattern!r}:\n{self.text[-2000:]}"
        return found[0]

    def prompted(self, after: int = 0) -> None:
        """Wait until a line is asked for: keys that are pressed before that are not those of a line's editor."""
        self.wait_for(r"\n[\w ]*> $", after=after)

    def answered(self, text: str, pattern: str = r"\[[^\[\]]*tokens[^\[\]]*\]\n") -> str:
        """Type a line; what is written to the first match, by default the line after an answer, and the next prompt."""
        before = len(self.text)
        self.type(text)
        self.prompted(self.wait_for(pattern, after=before).end() - 1)
        return self.text[before:]

    def code(self, seconds: float = 60.0) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(seconds)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux says so when the other end is closed
                data = b""
            with self._changed:
                self.raw += data.decode(errors="replace")
                self._ended = not data
                self._changed.notify_all()
            if not data:
                return
