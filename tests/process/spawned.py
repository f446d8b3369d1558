"""A worker as a subprocess."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from backend.pb.backend_pb2_grpc import BackendStub

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = (sys.executable, "-m", "tests.process.scripted_worker")
_READY = re.compile(r"ready address=(\S+) pid=(\d+)")
PATIENCE = 60.0


class Spawned:
    """A worker process, its log as it comes, and a client."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address, self.pid = "", 0

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def wait_ready(self) -> None:
        match = self.wait_for(_READY)
        self.address, self.pid = match[1], int(match[2])

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.log.append(line)
            if match := pattern.search(line):
                return match
        raise AssertionError(f"not in the log: {pattern.pattern}\n{''.join(self.log)}")

    @contextmanager
    def client(self) -> Iterator[Any]:
        with grpc.insecure_channel(self.address) as channel:
            yield BackendStub(channel)

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """Exit code and the last line of standard error."""
        code = self.process.wait(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.log.append(line)
        return code, self.log[-1].strip() if self.log else ""


@contextmanager
def spawned(
    command: Sequence[str] = SCRIPTED, *arguments: str, cwd: Path = ROOT, ready: bool = True, **environment: str
) -> Iterator[Spawned]:
    argv = [*command, "--addr", "127.0.0.1:0", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(argv, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)
    worker = Spawned(process)
    try:
        if ready:
            worker.wait_ready()
        yield worker
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)
        if process.stderr is not None:
            process.stderr.close()
