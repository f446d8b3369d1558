"""`mlx-worker ranks`: `mlx.launch` around the worker; its log goes on, its end is told, and it ends with its parent."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from backend.process.exit_codes import ExitCode
from backend.ranks_command.options import Options, parse_options

PARENT_SECONDS: Final = 2.0
# What rank 0 says of itself, as text and as JSON.
_READY: Final = re.compile(r'\bready\b.*\bpid(?:=|": ?)(\d+)')
_ENDED: Final = re.compile(r"Node with rank (\d+) exited with code (-?\d+)")
_LAST_WORDS: Final = "mlx-worker: "
# mlx.launch looks again and again whether a rank takes input, as long as it does; what fills the pipe ends that.
_FILLING: Final = b"\n" * (1 << 18)


def ranks(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the ranks until they end; the exit code is that of rank 0, or of another that failed."""
    try:
        options = parse_options(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    program = shutil.which("mlx.launch", path=f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}")
    if program is None:
        sys.stderr.write("mlx-worker ranks: mlx.launch is not installed beside this Python\n")
        return 1
    return Launch(launch_command(program, options), options).run()


def launch_command(program: str, options: Options) -> list[str]:
    """`mlx.launch` with its arguments."""
    where = ["--hosts", options.hosts, "--repeat-hosts", str(options.repeat)]
    if options.hostfile is not None:
        where = ["--hostfile", str(options.hostfile)]
    told = {
        "MLX_WORKER_RANKS": str(options.size),
        "MLX_WORKER_RANKS_BACKEND": options.backend,
        "MLX_WORKER_RANKS_CONTROL": options.control,
        "MLX_WORKER_RANKS_TOKEN": secrets.token_hex(16),
        "MLX_WORKER_RANKS_LAUNCHER": f"{socket.gethostname()}:{os.getpid()}",
    }
    return [
        program,
        *where,
        "--backend",
        options.backend,
        "--starting-port",
        str(options.port + 1),
        "--nccl-port",
        str(options.port + 1),
        *(part for name, value in told.items() for part in ("--env", f"{name}={value}")),
        "--python",
        options.python or sys.executable,
        "--",
        "-m",
        "backend",
        *options.worker,
    ]


class Launch:
    """One run of `mlx.launch`. The main thread waits; two others pass on what the ranks print."""

    def __init__(self, command: Sequence[str], options: Options) -> None:
        self._command = command
        self._is_local = options.is_local
        self._serves: int | None = None
        self._codes: dict[int, int] = {}
        self._last_words = ""

    def run(self) -> int:
        """Run to the end; the exit code."""
        parent = os.getppid()
        # Of its own session: a host that stops this process and its group must not cut off mlx.launch, by which rank 0
        # still tells how its requests end.
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: self._stop(process))
        threads = [
            threading.Thread(target=self._pass_on, args=(stream, out), daemon=True)
            for stream, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        ]
        for thread in threads:
            thread.start()
        if self._is_local:
            threading.Thread(target=_fill, args=(process.stdin,), daemon=True).start()
        while True:
            try:
                process.wait(PARENT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if os.getppid() != parent:
                    self._stop(process)
        for thread in threads:
            thread.join(1)
        # A host shows its users the last line.
        if self._last_words:
            sys.stderr.write(f"{self._last_words}\n")
        code = self._codes[min(self._codes)] if self._codes else process.returncode
        if code == -signal.SIGTERM and self._last_words:
            # mlx.launch ends the ranks that are left, in the middle of what they have to say.
            return ExitCode.ENGINE_DEAD
        return code if code >= 0 else 128 - code

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Have rank 0 end as it does at SIGTERM, and the others with it."""
        if self._is_local and self._serves is not None:
            os.kill(self._serves, signal.SIGTERM)
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)

    def _pass_on(self, stream: IO[bytes], out: IO[str]) -> None:
        for raw in stream:
            line = raw.decode(errors="replace")
            if self._serves is None and (ready := _READY.search(line)):
                self._serves = int(ready[1])
            if ended := _ENDED.search(line):
                self._codes[int(ended[1])] = int(ended[2])
            if line.startswith(_LAST_WORDS) and not self._last_words:
                self._last_words = line.rstrip("\n")
                continue
            out.write(line)
            out.flush()


def _fill(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # it has ended
        pipe.write(_FILLING)
        pipe.flush()
