"""The cache directory: whose it is, what lies in it, its secret, and the folders below it.

Everything below the root is opened step by step from an open descriptor, without following links.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mlx_cache.disk.names import SECRET_BYTES, VERSION_FOLDER, Name, is_namespace, parse
from mlx_cache.disk.system import System

QUARANTINE = "quarantine"
TEMPORARY = ".tmp-"

_SECRET = "secret"
_SECRET_ATTEMPTS = 50
_TICK_NS = 2_000_000_000
"""A folder changed so lately may change again without its time of change saying so."""


class DiskUnusable(Exception):
    """The directory cannot be used; the argument is a line that says why."""


class Found(NamedTuple):
    """A file that a scan found. `used` is when it was used last, in seconds since the epoch."""

    name: Name
    nbytes: int
    used: float


class Directory:
    """A cache directory, once `open` has succeeded. Any thread; blocks as long as the disk does."""

    def __init__(self, path: Path, system: System) -> None:
        self._path = path
        self._system = system
        self._root = -1
        # The descriptor is closed when the last that uses it is through: its number may be another file's then.
        self._guard = threading.Lock()
        self._users = 0
        self._closing = False
        # By namespace and folder: the files that are known, and the time of the folder's last change when listed.
        self._known: dict[tuple[str, str], dict[str, Name]] = {}
        self._changed: dict[tuple[str, str], int] = {}
        self.secret = b""
        self.foreign = 0

    def open(self) -> None:
        """Make or verify the directory. Raises DiskUnusable."""
        try:
            if not os.path.lexists(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.mkdir(self._path, 0o700)
            self._root = self._system.open_root(str(self._path))
            self._verify(self._root, str(self._path))
            self._make(self._root, VERSION_FOLDER)
            self._make(self._root, QUARANTINE)
            self.secret = self._find_secret()
        except DiskUnusable:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise DiskUnusable(_why(self._path, error)) from None

    def close(self) -> None:
        """Let the directory go: nothing is found in it from now on."""
        with self._guard:
            self._closing = True
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closing and not self._users and self._root >= 0:
            self._system.close(self._root)
            self._root = -1

    def _verify(self, fd: int, what: str) -> None:
        about = self._system.stat(fd)
        if about.st_uid != os.geteuid():
            raise DiskUnusable(f"{what} belongs to another user")
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DiskUnusable(f"{what} can be written by others")

    def _make(self, parent: int, name: str) -> None:
        with suppress(FileExistsError):
            self._system.make_folder(parent, name)
        fd = self._system.open_folder(parent, name)
        try:
            self._verify(fd, f"{self._path}/{name}")
        finally:
            self._system.close(fd)

    # The secret

    def _find_secret(self) -> bytes:
        # Linked into place whole, so that no worker ever reads half of another's.
        for _ in range(_SECRET_ATTEMPTS):
            try:
                return self._read_secret()
            except FileNotFoundError:
                temporary = self.temporary_name()
                fd = self._system.create(self._root, temporary)
                try:
                    self._system.try_lock(fd)
                    self._system.write(fd, [os.urandom(SECRET_BYTES)])
                    self._system.sync(fd)
                    # Another worker's may be there by now, or its sweep may have taken ours before it was locked.
                    with suppress(FileExistsError, FileNotFoundError):
                        self._system.link(self._root, temporary, _SECRET)
                finally:
                    self._system.close(fd)
                    with suppress(FileNotFoundError):
                        self._system.remove(self._root, temporary)
                self._system.sync(self._root)
        raise DiskUnusable(f"{self._path}/{_SECRET} cannot be made")

    def _read_secret(self) -> bytes:
        fd = self._system.open_file(self._root, _SECRET)
        try:
            about = self._system.stat(fd)
            private = about.st_uid == os.geteuid() and not about.st_mode & 0o077
            if not stat.S_ISREG(about.st_mode) or not private or about.st_size != SECRET_BYTES:
                raise DiskUnusable(f"{self._path}/{_SECRET} is not a file of {SECRET_BYTES} bytes for us alone")
            secret = bytearray(SECRET_BYTES)
            if self._system.read(fd, [secret]) != SECRET_BYTES:
                raise DiskUnusable(f"{self._path}/{_SECRET} cannot be read")
            return bytes(secret)
        finally:
            self._system.close(fd)

    # Folders and names

    @staticmethod
    def temporary_name() -> str:
        """A name that nobody else makes."""
        return f"{TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"

    @contextmanager
    def root(self) -> Generator[int]:
        """The cache directory's own descriptor. Raises OSError when it is closed."""
        with self._guard:
            if self._closing:
                raise FileNotFoundError("the cache directory is closed")
            self._users += 1
        try:
            yield self._root
        finally:
            with self._guard:
                self._users -= 1
                self._close_unused()

    @contextmanager
    def folder(self, *names: str, make: bool = False) -> Generator[int]:
        """A descriptor of a folder below the root."""
        with self.root() as root:
            fd = self._system.open_folder(root, names[0])
        try:
            for name in names[1:]:
                if make:
                    with suppress(FileExistsError):
                        self._system.make_folder(fd, name)
                inner = self._system.open_folder(fd, name)
                self._system.close(fd)
                fd = inner
            yield fd
        finally:
            self._system.close(fd)

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


def _why(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{path!s:.200}: {error.strerror}".replace("\n", " ")
    return f"{path!s:.200}: {error}".replace("\n", " ").replace("\0", "?")
