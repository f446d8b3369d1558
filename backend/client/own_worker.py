"""A worker of this process's own: on a free loopback port, with a token that nobody else knows, gone when we are."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final

from backend.client.connection import Connection
from backend.client.log_events import LogEvent, event_of, without_head
from backend.config import TOKEN_VARIABLES
from backend.rpc.address import Address

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
_LAST_LINES_SECONDS: Final = 1.0
# Over those of the environment: we read the log, somebody looks at the progress, and nobody stops it but us.
_SETTINGS: Final = (
    *("--addr", "127.0.0.1:0", "--log-level", "info", "--progress", "500ms"),
    *("--parent-watch", "1s", "--grace", "1s"),
)
_NO_REASON: Final = ("debug", "info")
# Of a worker that others reach, look at and read the log of.
_NOT_ITS: Final = (*TOKEN_VARIABLES, "MLX_WORKER_TLS_", "MLX_WORKER_LOG_", "MLX_WORKER_METRICS_")


class WorkerEnded(Exception):
    """The worker is gone, or has not come; the message is one sentence."""


class OwnWorker:
    """A worker process. Entering waits until its port is open; leaving stops it, and kills it where it does not stop.

    It takes its settings from MLX_WORKER_ variables as any worker does. What a signal does to this process's
    terminal group does not reach it, and it ends by itself when this process is gone without having stopped it.

    Args:
        tell: Gets each event of its log, on a thread of its own.
    """

    def __init__(self, environment: Mapping[str, str], tell: Callable[[LogEvent], None]) -> None:
        self._token = secrets.token_hex(16)
        self._environment = {name: value for name, value in environment.items() if not name.startswith(_NOT_ITS)}
        self._tell = tell
        self._last_words = ""
        self._address: str = ""
        self._changed = threading.Condition()
        self._log_ended = False

    @property
    def connection(self) -> Connection:
        """How to call it."""
        return Connection(address=Address.parse(self._address), token=self._token)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __enter__(self) -> "OwnWorker":
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        # -P: a directory named backend where we were started from must not come before ours.
        command = [sys.executable, "-P", "-m", "backend", "serve", *_SETTINGS]
        self._process = subprocess.Popen(
            command,
            env=self._environment | {"PYTHONPATH": path, TOKEN_VARIABLES[0]: self._token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C is for us: it stops an answer, not the worker.
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def ending(self, seconds: float = 0.0) -> str | None:
        """How it ended, in a sentence with its last words; None while it lives on for so long."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        with self._changed:
            self._changed.wait_for(lambda: self._log_ended, _LAST_LINES_SECONDS)
        said = without_head(self._last_words).removeprefix("mlx-worker: ").rstrip(".")
        how = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        return f"The worker {how}{': ' if said else ''}{said}."

    def _wait_ready(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._address or self._log_ended, START_SECONDS)
        if not self._address:
            raise WorkerEnded(self.ending(1.0) or f"The worker has not opened its port within {START_SECONDS:g} s.")

    def _read(self, stream: Iterable[str]) -> None:
        for line in filter(None, map(str.strip, stream)):
            event = event_of(line)
            # What it did before is no reason for its end.
            self._last_words = "" if event is not None and event.level in _NO_REASON else line
            if event is None:
                continue
            if event.name == "ready":
                with self._changed:
                    self._address = event.fields["address"]
                    self._changed.notify_all()
            self._tell(event)
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
        except BaseException:  # whoever waits here has lost patience
            self._kill()
            raise
        self._reader.join(_LAST_LINES_SECONDS)
        # What holds the other end still is no reason to wait for ever.
        if not self._reader.is_alive() and self._process.stderr is not None:
            self._process.stderr.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"
