"""What the system shows of another process. Linux tells more, in /proc; elsewhere psutil tells how many."""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

UNNAMED = ""


def is_running(pid: int) -> bool:
    """There is such a process, and it has not ended: one that nobody has waited for yet does not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def resident_bytes(pid: int) -> int:
    """Bytes in memory now."""
    return psutil.Process(pid).memory_info().rss


@dataclass
class Growth:
    """Bytes that a process has grown by at most."""

    most: int = 0


@contextmanager
def growth(pid: int) -> Generator[Growth]:
    """Look at a process's memory again and again meanwhile."""
    grown, over, before = Growth(), threading.Event(), resident_bytes(pid)

    def look() -> None:
        while not over.wait(0.005):
            grown.most = max(grown.most, resident_bytes(pid) - before)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield grown
    finally:
        over.set()
        looking.join(60)


def threads(pid: int) -> Counter[str]:
    """Threads by the name that the system has for them; where it has none to show, all are `UNNAMED`."""
    if not psutil.LINUX:
        return Counter({UNNAMED: psutil.Process(pid).num_threads()})
    return Counter(_each(Path(f"/proc/{pid}/task"), lambda task: (task / "comm").read_text().strip()))


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors by what they are, numbers left out; where that is not shown, all are `UNNAMED`."""
    if not psutil.LINUX:
        return Counter({UNNAMED: psutil.Process(pid).num_fds()})
    return Counter(_each(Path(f"/proc/{pid}/fd"), lambda link: re.sub(r"\d+", "N", os.readlink(link))))


def standard_streams(pid: int) -> list[str] | None:
    """What descriptors 0 to 2 are; None where that is not shown."""
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)] if psutil.LINUX else None


def core_limits(pid: int) -> tuple[int, int] | None:
    """The soft and hard limit of a core dump's bytes; None where that is not shown."""
    return psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) if psutil.LINUX else None


def environment(pid: int) -> dict[str, str]:
    """What the process was started with."""
    return psutil.Process(pid).environ()


def _each(folder: Path, name: Callable[[Path], str]) -> Iterator[str]:
    for entry in folder.iterdir():
        try:
            yield name(entry)
        except FileNotFoundError:  # ended meanwhile
            continue
