"""The cache directory itself: whose it is, its secret, and that it is still what lies under its path."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_cache.disk.names import SECRET_BYTES, VERSION_FOLDER
from mlx_cache.disk.place import Place, check_ours, open_or_make
from mlx_cache.disk.system import System

QUARANTINE = "quarantine"
TEMPORARY = ".tmp-"

_SECRET = "secret"
_SECRET_ATTEMPTS = 50


class DiskUnusable(Exception):
    """The directory cannot be used; the argument is a line that says why."""


class AnotherSecret(Exception):
    """What lies under the path now has a secret of its own: no name and no file of before means anything in it."""


class Root:
    """A cache directory, once `open` has succeeded. Any thread, `open` and `renew` one at a time."""

    def __init__(self, place: Place, system: System) -> None:
        self._place = place
        self._path = place.path
        self._system = system
        self._guard = threading.Lock()
        self._now = _Descriptor(system)
        self._closing = False
        self.secret = b""

    def open(self) -> None:
        """Make or verify the directory. Raises DiskUnusable."""
        try:
            self._reach()
            self._make_folders()
            self.secret = self._find_secret(b"")
        except DiskUnusable:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise DiskUnusable(_why(self._path, error)) from None

    def renew(self) -> bool:
        """Make anew what somebody has taken away, its secret too; whether anything was.

        Raises:
            AnotherSecret: Somebody else has made one with another secret meanwhile.
            DiskUnusable: It cannot be used as it is now.
        """
        was = self._now
        try:
            self._reach()
            made = self._make_folders()
            if self._find_secret(self.secret) != self.secret:
                raise AnotherSecret
        except (OSError, ValueError) as error:
            raise DiskUnusable(_why(self._path, error)) from None
        return made or self._now is not was

    def close(self) -> None:
        """Let the directory go: nothing is found in it from now on."""
        with self._guard:
            self._closing = True
            self._now.retire()

    @contextmanager
    def held(self) -> Generator[int]:
        """The directory's own descriptor. Raises OSError when it is closed."""
        with self._guard:
            if self._closing:
                raise FileNotFoundError("the cache directory is closed")
            descriptor = self._now
            descriptor.users += 1
        try:
            yield descriptor.fd
        finally:
            with self._guard:
                descriptor.users -= 1
                descriptor.close_unused()

    def _reach(self) -> None:
        """Hold what lies under the path, made first where nothing does."""
        fd = self._place.open(make=True)
        try:
            if not self._is_held(fd):
                fd = self._hold(fd)
        finally:
            if fd >= 0:
                self._system.close(fd)

    def _is_held(self, fd: int) -> bool:
        # While the old one is held, its number is nobody else's.
        return self._now.fd >= 0 and os.path.samestat(self._system.stat(fd), self._system.stat(self._now.fd))

    def _hold(self, fd: int) -> int:
        """Have this descriptor in place of the present one; -1, or itself where all is closed already."""
        with self._guard:
            if self._closing:
                return fd
            self._now.retire()
            self._now = _Descriptor(self._system, fd)
            return -1

    def _make_folders(self) -> bool:
        with self.held() as root:
            made = [self._make(root, name) for name in (VERSION_FOLDER, QUARANTINE)]
        return any(made)

    def _make(self, parent: int, name: str) -> bool:
        fd, made = open_or_make(self._system, parent, name)
        try:
            check_ours(self._system.stat(fd))
        except PermissionError as error:
            raise DiskUnusable(_why(self._path / name, error)) from None
        finally:
            self._system.close(fd)
        return made

    # The secret

    def _find_secret(self, wanted: bytes) -> bytes:
        # Linked into place whole, so that no worker ever reads half of another's.
        with self.held() as root:
            for _ in range(_SECRET_ATTEMPTS):
                try:
                    return self._read_secret(root)
                except FileNotFoundError:
                    self._put_secret(root, wanted or os.urandom(SECRET_BYTES))
        raise DiskUnusable(f"{self._path}/{_SECRET} cannot be made")

    def _put_secret(self, root: int, secret: bytes) -> None:
        temporary = temporary_name()
        fd = self._system.create(root, temporary)
        try:
            self._system.try_lock(fd)
            self._system.write(fd, [secret])
            self._system.sync(fd)
            # Another worker's may be there by now, or its sweep may have taken ours before it was locked.
            with suppress(FileExistsError, FileNotFoundError):
                self._system.link(root, temporary, _SECRET)
        finally:
            self._system.close(fd)
            with suppress(FileNotFoundError):
                self._system.remove(root, temporary)
        self._system.sync(root)

    def _read_secret(self, root: int) -> bytes:
        try:
            fd = self._system.open_file(root, _SECRET)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskUnusable(_why(self._path / _SECRET, error)) from None
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


class _Descriptor:
    """Of a directory, closed when the last that uses it is through: its number may be another file's then."""

    def __init__(self, system: System, fd: int = -1) -> None:
        self._system = system
        self._retired = False
        self.fd = fd
        self.users = 0

    def retire(self) -> None:
        """Nobody begins to use it any more."""
        self._retired = True
        self.close_unused()

    def close_unused(self) -> None:
        """Close it, if it is retired and nobody uses it."""
        if self._retired and not self.users and self.fd >= 0:
            self._system.close(self.fd)
            self.fd = -1


def temporary_name() -> str:
    """A name that nobody else makes."""
    return f"{TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"


def _why(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(path):
        return f"{path!s:.200}: is a link".replace("\n", " ")
    if isinstance(error, OSError) and error.strerror:
        return f"{path!s:.200}: {error.strerror}".replace("\n", " ")
    return f"{path!s:.200}: {error}".replace("\n", " ").replace("\0", "?")


def _is_link(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.is_symlink()
    return False
