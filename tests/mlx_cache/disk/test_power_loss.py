"""The order of the calls that make a file: what the power takes at any moment is a whole file or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_cache.disk.system import System
from tests.mlx_cache.disk.parts import over, put, tier


class Recording(System):
    """Says of every file when it was written, synced and named, and of every folder when it was synced."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def write(self, fd: int, buffers: Sequence[Any]) -> int:
        self.calls.append(("write", fd))
        return super().write(fd, buffers)

    def create(self, folder: int, name: str) -> int:
        fd = super().create(folder, name)
        self.calls.append(("create", (fd, name)))
        return fd

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.calls.append(("sync", fd))

    def rename(self, source_folder: int, source: str, folder: int, name: str) -> None:
        super().rename(source_folder, source, folder, name)
        self.calls.append(("rename", (source, folder)))


class Unsynced(Recording):
    """A disk that is told nothing: what the test below must find."""

    def sync(self, fd: int) -> None:
        pass


def faults(calls: list[tuple[str, Any]]) -> list[str]:
    """Where a name was given to what might not be on the medium, or to stay in a folder that might not."""
    found: list[str] = []
    open_files: dict[str, int] = {}
    unsynced: set[int] = set()
    for index, (call, what) in enumerate(calls):
        match call:
            case "create":
                open_files[what[1]] = what[0]
            case "write":
                unsynced.add(what)
            case "sync":
                unsynced.discard(what)
            case "rename":
                source, folder = what
                if open_files[source] in unsynced:
                    found.append(f"{source} had its name before its bytes were on the medium")
                until = next((n for n, (c, _) in enumerate(calls[index + 1 :], index + 1) if c == "create"), len(calls))
                if ("sync", folder) not in calls[index + 1 : until]:
                    found.append(f"the name of {source} may be lost")
    return found


def calls_of(system: Recording, path: Path) -> list[tuple[str, Any]]:
    """What the tier does to write some files."""
    disk = tier(path, system=system)
    system.calls.clear()
    cache = over(disk)
    put(cache, list(range(1, 23)))
    put(cache, [7, *range(1, 23)], "hybrid", "h")
    assert cache.flush(60)
    disk.close(10)
    assert sum(call == "rename" for call, _ in system.calls) > 6
    return system.calls


def test_a_file_has_its_name_only_once_it_is_on_the_medium_and_keeps_it(tmp_path: Path) -> None:
    assert faults(calls_of(Recording(), tmp_path / "kv")) == []


@pytest.mark.parametrize("words", ["before its bytes", "may be lost"])
def test_a_disk_that_is_told_nothing_is_found(tmp_path: Path, words: str) -> None:
    assert any(words in fault for fault in faults(calls_of(Unsynced(), tmp_path / "kv")))
