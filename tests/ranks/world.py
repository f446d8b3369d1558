"""Several ranks on loopback, started as `mlx.launch` does: one command, with each rank's number in its environment."""

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from backend.pb import backend_pb2 as pb
from tests.e2e.worker import ROOT, Log, Worker

FOLLOWER = ("-m", "backend")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Ranks:
    """A worker of several ranks; leaving stops it and expects that all of them end cleanly.

    Args:
        commands: By rank, what to run instead of `python -m backend`.
        absent: Ranks that are never started.
        directory: Where the others than rank 0 are started; None is where that is.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 2,
        *,
        commands: Mapping[int, Sequence[str]] | None = None,
        absent: Sequence[int] = (),
        directory: Path | None = None,
    ) -> None:
        self.size = size
        self._absent = absent
        self._directory = directory or ROOT
        ports = free_ports(size + 1)
        hosts = folder / f"hosts-{secrets.token_hex(4)}.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports[:size]]))
        self.environment = {
            "MLX_HOSTFILE": str(hosts),
            "MLX_WORKER_RANKS": str(size),
            "MLX_WORKER_RANKS_BACKEND": "ring",
            "MLX_WORKER_RANKS_CONTROL": f"127.0.0.1:{ports[size]}",
            "MLX_WORKER_RANKS_TOKEN": secrets.token_hex(8),
            "OMP_NUM_THREADS": "1",
        }
        self._commands = commands or {}
        self.worker = Worker(command=self._commands.get(0, FOLLOWER), environment={**self.environment, "MLX_RANK": "0"})
        self.followers: dict[int, subprocess.Popen[str]] = {}
        self.logs: dict[int, Log] = {0: self.worker.log}
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> "Ranks":
        for rank in range(1, self.size):
            if rank not in self._absent:
                self._start(rank)
        self.worker.__enter__()
        return self

    def _start(self, rank: int) -> None:
        process = subprocess.Popen(
            [sys.executable, *self._commands.get(rank, FOLLOWER), "--blas", "reference"],
            cwd=self._directory,
            env={**os.environ, **self.environment, "MLX_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.followers[rank], log = process, Log()
        self.logs[rank] = log
        reader = threading.Thread(target=log.read, args=(process.stderr,), daemon=True)
        reader.start()
        self._readers.append(reader)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.worker.__exit__(kind, error, traceback)
        finally:
            codes = {rank: self.ended(rank, 15 if error is None else 1) for rank in self.followers}
            for reader in self._readers:
                reader.join(60)
            for process in self.followers.values():
                if process.stderr is not None:
                    process.stderr.close()
        if error is None and self.worker.expected_code == 0:
            assert set(codes.values()) == {0}, (codes, {r: log.lines[-5:] for r, log in self.logs.items()})

    def ended(self, rank: int, seconds: float) -> int | None:
        """The exit code of a rank within so many seconds; one that does not end is killed, and has None."""
        process = self.worker.process if rank == 0 else self.followers[rank]
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
            return None

    def pid(self, rank: int) -> int:
        """Of a rank's process."""
        return self.worker.pid if rank == 0 else self.followers[rank].pid

    def end(self, rank: int) -> None:
        """Kill -9 of one rank, which may be gone already."""
        process = self.worker.process if rank == 0 else self.followers[rank]
        process.kill()
        process.wait(60)

    def ended_already(self, rank: int) -> bool:
        """Whether the rank's process has ended."""
        return (self.worker.process if rank == 0 else self.followers[rank]).poll() is not None

    def load(self, model: Path, *options: str, **fields: Any) -> pb.Result:
        """LoadModel as it answers."""
        return self.worker.load(model, *options, **fields)
