"""A control group with a limit, where this user may make one: version 1 or 2, Linux."""

import contextlib
import time
from collections.abc import Generator
from pathlib import Path

import pytest

MOUNT = Path("/sys/fs/cgroup")


class Group:
    """One group of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def limit(self, most: int | str) -> None:
        """So many bytes, or processes and threads, from now on; `max` is any number."""
        for name, none in (("pids.max", "max"), ("memory.max", "max"), ("memory.limit_in_bytes", "-1")):
            if (self.folder / name).exists():
                (self.folder / name).write_text(none if most == "max" else str(most))

    def add(self, *pids: int) -> None:
        """Move processes, and what they start from now on."""
        for pid in pids:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def number(self, *names: str) -> int:
        """What one of its files says, the first that is there."""
        return int(next(self.folder / name for name in names if (self.folder / name).exists()).read_text())

    def empty(self) -> None:
        """Let those who are in it go back to where it is."""
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it is leaving
                (self.folder.parent / "cgroup.procs").write_text(pid)


@contextlib.contextmanager
def group(controller: str, name: str) -> Generator[Group]:
    """A new group under this process's own; skips the test where there can be none.

    Args:
        controller: `pids` or `memory`.
    """
    files = {"pids": ("pids.max",), "memory": ("memory.max", "memory.limit_in_bytes")}[controller]
    folder = _parent(controller) / f"mlx-worker-{name}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        if not any((folder / file).exists() for file in files):
            pytest.skip(f"the groups here do not limit {controller}")
        made = Group(folder)
        try:
            yield made
        finally:
            made.empty()
    finally:
        _remove(folder)


def _parent(controller: str) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return MOUNT / controller / path.lstrip("/")
        if number == "0" and (MOUNT / "cgroup.controllers").exists():
            return MOUNT / path.lstrip("/")
    return MOUNT / "nowhere"


def _remove(folder: Path) -> None:
    for _ in range(50):
        try:
            return folder.rmdir()
        except OSError:  # the last process is leaving yet
            time.sleep(0.1)
    raise AssertionError(f"{folder} is not empty")
