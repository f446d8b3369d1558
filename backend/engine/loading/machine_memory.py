"""The memory of the machine, or of the container that it is for this process."""

import os
from collections.abc import Iterator
from pathlib import Path

_PROCESS_GROUPS = "proc/self/cgroup"
_MOUNT = "sys/fs/cgroup"


def machine_memory(root: Path = Path("/"), *, physical: int | None = None) -> int:
    """Bytes that this process may use at most: the physical memory, or the least limit of its control groups.

    Args:
        root: Where `proc` and `sys` are; a system without control groups has no such files.
        physical: Bytes of the machine; None asks the system.
    """
    if physical is None:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((physical, *_limits(root)))


def _limits(root: Path) -> Iterator[int]:
    for file in _limit_files(root):
        # In version 2 "max" is none; in version 1 a number beyond any memory.
        text = _read(file).strip()
        if text.isdecimal():
            yield int(text)


def _limit_files(root: Path) -> Iterator[Path]:
    """Of the process's own groups and all above them, each of which binds it."""
    for line in _read(root / _PROCESS_GROUPS).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield from _upwards(root / _MOUNT, group, "memory.max")
            yield from _upwards(root / _MOUNT / "unified", group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(root / _MOUNT / "memory", group, "memory.limit_in_bytes")


def _upwards(mount: Path, group: str, name: str) -> Iterator[Path]:
    # A container may see its own group as the mount itself, under a path that does not exist there.
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth], name)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
