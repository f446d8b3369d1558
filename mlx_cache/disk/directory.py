"""What lies in the cache directory, and the folders below it.

Everything below the root is opened step by step from an open descriptor, without following links.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

from mlx_cache.disk.names import VERSION_FOLDER, Name, is_namespace, parse
from mlx_cache.disk.place import Place, open_or_make
from mlx_cache.disk.root import TEMPORARY, Root
from mlx_cache.disk.system import System

_TICK_NS = 2_000_000_000
"""A folder changed so lately may change again without its time of change saying so."""


class Found(NamedTuple):
    """A file that a scan found. `used` is when it was used last, in seconds since the epoch."""

    name: Name
    nbytes: int
    used: float


class Directory:
    """A cache directory, once `open` has succeeded. Any thread; blocks as long as the disk does."""

    def __init__(self, place: Place, system: System) -> None:
        self._system = system
        self._root = Root(place, system)
        # By namespace and folder: the files that are known, and the time of the folder's last change when listed.
        self._known: dict[tuple[str, str], dict[str, Name]] = {}
        self._changed: dict[tuple[str, str], int] = {}
        self.foreign = 0

    def open(self) -> None:
        """Make or verify the directory. Raises DiskUnusable."""
        self._root.open()

    def renew(self) -> bool:
        """Make anew what somebody has taken away; whether anything was, and a scan is due. See `Root.renew`."""
        renewed = self._root.renew()
        if renewed:
            self._changed.clear()
        return renewed

    def close(self) -> None:
        """Let the directory go: nothing is found in it from now on."""
        self._root.close()

    @property
    def secret(self) -> bytes:
        """What names and headers are made with."""
        return self._root.secret

    # Folders and names

    def root(self) -> AbstractContextManager[int]:
        """The cache directory's own descriptor. Raises OSError when it is closed."""
        return self._root.held()

    @contextmanager
    def folder(self, *names: str, make: bool = False) -> Generator[int]:
        """A descriptor of a folder below the root."""
        with self.root() as root:
            fd = self._open_folder(root, names[0], make=make)
        try:
            for name in names[1:]:
                inner = self._open_folder(fd, name, make=make)
                self._system.close(fd)
                fd = inner
            yield fd
        finally:
            self._system.close(fd)

    def _open_folder(self, parent: int, name: str, *, make: bool) -> int:
        return open_or_make(self._system, parent, name)[0] if make else self._system.open_folder(parent, name)

    def of(self, name: Name, *, make: bool = False) -> AbstractContextManager[int]:
        """The folder that a file belongs in."""
        return self.folder(VERSION_FOLDER, name.namespace, name.folder, make=make)

    def remove(self, name: Name) -> None:
        """Remove a file, if it is there."""
        self.unlearn(name)
        with suppress(FileNotFoundError), self.of(name) as folder:
            self._system.remove(folder, name.file)

    def touch(self, name: Name, seconds: float) -> None:
        """Say that a file was used, for workers to come."""
        with suppress(FileNotFoundError), self.of(name) as folder:
            self._system.touch(folder, name.file, seconds)

    # Scanning

    def scan(self) -> Iterator[tuple[list[Found], list[Name]]]:
        """The files that have come and gone since they were last seen, folder by folder.

        Only folders that have changed are listed, and only names that are new are read: an hour's scans cost little
        beside what is written meanwhile. Sweeps temporary files on the way.
        """
        seen: set[tuple[str, str]] = set()
        for namespace in self._names(VERSION_FOLDER):
            if not is_namespace(namespace):
                self.foreign += 1
                continue
            for folder in self._names(VERSION_FOLDER, namespace):
                seen.add((namespace, folder))
                yield self._scan_folder(namespace, folder)
        for place in self._known.keys() - seen:
            self._changed.pop(place, None)
            yield [], list(self._known.pop(place).values())

    def learn(self, name: Name) -> None:
        """A file was written here; a scan has nothing to say of it."""
        self._known.setdefault((name.namespace, name.folder), {})[name.file] = name

    def unlearn(self, name: Name) -> None:
        """A file is gone, or of no use: if one of its name is found again, it is new."""
        self._known.get((name.namespace, name.folder), {}).pop(name.file, None)

    def names(self, beginning: str = "") -> Iterator[Name]:
        """What files there are right now, of every namespace that begins like this."""
        for space in (space for space in self._names(VERSION_FOLDER) if space.startswith(beginning)):
            for folder in self._names(VERSION_FOLDER, space) if is_namespace(space) else ():
                with suppress(FileNotFoundError), self.folder(VERSION_FOLDER, space, folder) as fd:
                    found = [parse(space, folder, entry.name) for entry in self._system.list(fd)]
                    yield from filter(None, found)

    def sweep_root(self) -> None:
        """Remove what a worker left behind that died while it made the secret, or the day's count."""
        with self.root() as root:
            for entry in list(self._system.list(root)):
                if entry.name.startswith(TEMPORARY):
                    self._sweep(root, entry.name)

    def _names(self, *folders: str) -> list[str]:
        try:
            with self.folder(*folders) as fd:
                return [entry.name for entry in self._system.list(fd) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def _scan_folder(self, namespace: str, folder: str) -> tuple[list[Found], list[Name]]:
        new, place = list[Found](), (namespace, folder)
        known, there = self._known.setdefault(place, {}), set[str]()
        try:
            with self.folder(VERSION_FOLDER, namespace, folder) as fd:
                changed = self._system.stat(fd).st_mtime_ns
                if self._changed.get(place) == changed:
                    return [], []
                for entry in list(self._system.list(fd)):
                    there.add(entry.name)
                    if entry.name.startswith(TEMPORARY):
                        self._sweep(fd, entry.name)
                    elif entry.name not in known:
                        new.extend(self._look(namespace, folder, entry))
        except FileNotFoundError:
            changed = -1
        self._changed[place] = changed if time.time_ns() - changed > _TICK_NS else -1
        gone = [name for file, name in list(known.items()) if file not in there]
        for name in gone:
            known.pop(name.file, None)
        known.update((found.name.file, found.name) for found in new)
        return new, gone

    def _look(self, namespace: str, folder: str, entry: os.DirEntry[str]) -> Iterator[Found]:
        name = parse(namespace, folder, entry.name)
        if name is None:
            self.foreign += 1
            return
        with suppress(FileNotFoundError):
            about = entry.stat(follow_symlinks=False)
            yield Found(name, about.st_size, about.st_mtime)

    def _sweep(self, folder: int, name: str) -> None:
        # Its maker holds the lock for as long as it lives.
        with suppress(FileNotFoundError):
            fd = self._system.open_file(folder, name, writing=True)
            try:
                if self._system.try_lock(fd):
                    self._system.remove(folder, name)
            finally:
                self._system.close(fd)
