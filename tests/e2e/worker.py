"""A spawned worker and clients of it. Only this process's own children are ever signalled."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests import chosen, observed

ROOT = Path(__file__).resolve().parents[2]
TINY_CHAT = ROOT / "examples" / "tiny-chat" / "model"
# The sizes of what is sent here; the product's own limit is the server's.
CHANNEL_OPTIONS = (("grpc.max_send_message_length", 128 << 20), ("grpc.max_receive_message_length", 128 << 20))
# However busy the machine is; whoever fails by one has waited long enough to be sure.
START_SECONDS = 60
STOP_SECONDS = 60
PATIENCE_SECONDS = 60.0


def wait_until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Ask again and again; another process has no event to wait for."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Log:
    """The worker's standard error, read as it comes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False

    def read(self, stream: Sequence[str]) -> None:
        """Take lines until the stream ends; runs on a thread of its own."""
        for line in stream:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, seconds: float = START_SECONDS, *, after: int = 0) -> re.Match[str]:
        """The first line at index `after` or later that matches; fails when the stream ends without one."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(filter(None, (re.search(pattern, line) for line in self.lines[after:])))
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(look, seconds)
        assert found, f"no line matches {pattern!r}:\n" + "\n".join(self.lines)
        return found[0]

    def whole(self, seconds: float = PATIENCE_SECONDS) -> list[str]:
        """All lines, once the stream has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, seconds), "standard error is still open"
        return self.lines


class Worker:
    """One worker process. Entering waits until its port is open; leaving stops it and expects a clean exit.

    Args:
        arguments: After `--addr` and `--blas reference`.
        command: What to run instead of `python -m backend`.
        address: Where it listens; port 0 is a free one.
        environment: Added to this process's own.
    """

    def __init__(
        self,
        *arguments: str,
        command: Sequence[str] = ("-m", "backend"),
        address: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._command = [sys.executable, *command, "--addr", address, "--blas", "reference", *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self.metadata = tuple(metadata)
        self.log = Log()

    def __enter__(self) -> "Worker":
        self.spawn()
        ready = self.log.wait_for(r'\bready"?,? "?address(?:=|": )(\S+)')
        self.address = ready[1].strip('",')
        self.channel = grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self.stub = rpc.BackendStub(self.channel)
        self.info = rpc.InfoStub(self.channel)
        self.prompt_cache = rpc.PromptCacheStub(self.channel)
        return self

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self.log.read, args=(self.process.stderr,), daemon=True)
        self.reader.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            code = self.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait(STOP_SECONDS)
            raise
        finally:
            self.channel.close()
            self.reader.join(STOP_SECONDS)
            assert self.process.stderr is not None
            self.process.stderr.close()
        if error is None:
            assert code == self.expected_code, "\n".join(self.log.lines[-20:])
        else:
            error.add_note("\n".join((f"worker exit code {code}", *self.log.lines[-20:])))

    expected_code = 0

    @property
    def pid(self) -> int:
        """Of the worker itself: nothing stands between."""
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send a signal to this worker."""
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code, once it has exited."""
        return self.process.wait(seconds)

    def load(self, model: Path | str = TINY_CHAT, *options: str, **fields: Any) -> pb.Result:
        """LoadModel as it answers; `options` are `key:value`."""
        if chosen.sampler != "auto" and not any(option.startswith("sampler:") for option in options):
            options = (*options, f"sampler:{chosen.sampler}")
        return self.stub.LoadModel(pb.ModelOptions(Model=str(model), Options=options, **fields), timeout=120)

    def must_load(self, model: Path | str = TINY_CHAT, *options: str, **fields: Any) -> None:
        """LoadModel that has to succeed."""
        result = self.load(model, *options, **fields)
        assert result.success, result.message

    def queue(self) -> Mapping[str, float]:
        """The Info service's queue figures."""
        return self.info.Get(pb.InfoRequest(), timeout=60).queue

    def wait_for_queue(self, holds: Callable[[Mapping[str, float]], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the queue figures are so."""
        wait_until(lambda: holds(self.queue()), "queue figures", seconds)

    def rest(self) -> None:
        """Wait until no request is there, and what they leave is stored."""
        self.wait_for_queue(lambda queue: queue["in_flight"] == queue["storing"] == 0)

    def threads(self) -> Counter[str]:
        """Threads by the name that the system has for them."""
        return observed.threads(self.pid)

    def descriptors(self) -> Counter[str]:
        """Open descriptors by what they are."""
        return observed.descriptors(self.pid)
