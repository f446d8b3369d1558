"""Bounds on memory for the programs that are confined: of this process, and of one that it has started."""

import contextlib
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

EXIT_CODE = 77  # of a process that went over its memory
_EVERY_S = 0.01
_PS_SECONDS = 1.0
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


def _peak_of_usage() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT


# Linux counts in it what the process had resident that started this one: a worker's whole model.
_INHERITED = _peak_of_usage()


def peak_bytes() -> int:
    """The most memory that this program has had resident so far; where only getrusage(2) says, perhaps its parent's."""
    return _high_water() or _peak_of_usage()


def _high_water() -> int | None:
    try:
        with open("/proc/self/status", "rb") as status:
            return next((int(line.split()[1]) << 10 for line in status if line.startswith(b"VmHWM:")), None)
    except OSError:
        return None


def resident_bytes(pid: int) -> int | None:
    """Memory that a process of ours has resident; None where the system does not say, or it has ended.

    Where there is no /proc, by ps(1), which takes some milliseconds.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None if sys.platform == "linux" else _resident_by_ps(pid)


def _resident_by_ps(pid: int) -> int | None:
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_PS_SECONDS, check=True)
        return int(told.stdout) << 10
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def limit_address_space(size: int) -> None:
    """Let no allocation go beyond this size, where the system enforces it (Linux; macOS refuses such a limit)."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def no_core() -> None:
    """Leave no core behind: it would hold what a client sent."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def address_space() -> int | None:
    """Bytes of address space in use; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None


class NoWatchError(RuntimeError):
    """The system starts no thread that could watch."""


@contextlib.contextmanager
def watched_memory(most: int) -> Generator[None]:
    """While in here, end the process with `EXIT_CODE` when more than `most` bytes have been resident.

    A thread looks every 10 ms, also where the system enforces no limit. It needs the interpreter lock, so it is
    late while one operation of Python keeps that. Where a peak cannot be told from its parent's, what is below that
    is left to the process that watches this one.

    Raises:
        NoWatchError: Nobody watches, and nothing is done.
    """
    done = threading.Event()
    bound = most if _high_water() is not None else max(most, _INHERITED)

    def watch() -> None:
        while not done.wait(_EVERY_S):
            if peak_bytes() > bound:
                os._exit(EXIT_CODE)

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        watcher.start()
    except RuntimeError as error:
        raise NoWatchError(str(error)) from None
    try:
        yield
    finally:
        done.set()
        watcher.join()
