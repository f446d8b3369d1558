"""Starting a confined process, and ending it with everything that it has started."""

import contextlib
import os
import signal
import subprocess
import sys

from backend.core.errors import InternalFault

_KEPT = ("PATH", "TZ", "LANG", "LC_ALL", "SYSTEMROOT")


def spawn(module: str) -> "subprocess.Popen[bytes]":
    """Run a module of ours with pipes to it, unbuffered, in a session and process group of its own.

    It must end when its input does, so that it never outlives this process.

    Raises:
        InternalFault: The system starts no process.
    """
    # No secret of the worker (tokens, keys) is in the environment of a process that does a stranger's work.
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise InternalFault(f"cannot start {module}: {error.strerror}") from error


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill it and its own children, at once."""
    if process.poll() is None:  # else its number may be another's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def close_pipes(process: "subprocess.Popen[bytes]") -> None:
    """Close both pipes; the end of its input is a process's signal to leave."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
