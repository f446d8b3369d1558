"""Waits for processes that were left to this one because it is process 1, as the only program of a container is.

Processes that try grammars are killed with all that they have started. Elsewhere the system's own process 1 waits
for those.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

INIT: Final = 1


def reap_orphans(proc: Path = Path("/proc")) -> int:
    """Wait for those that have ended; how many there were. What this process has started itself is its starter's.

    One that was started here leads a session of its own, or is in this process's.
    """
    us, ours = os.getpid(), os.getsid(0)
    reaped = 0
    for pid, parent, session in _zombies(proc):
        if parent == us and session not in (pid, ours):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
            reaped += 1
    return reaped


def _zombies(proc: Path) -> Iterator[tuple[int, int, int]]:
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # The name, in brackets, may hold anything.
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if state == "Z":
            yield int(entry.name), int(parent), int(session)
