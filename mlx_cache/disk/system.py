"""The system calls of the tier in one place, so that a test can let any of them fail, hang, or do half its work."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Whoever may pass through a folder need not be allowed to list it, where the system knows the difference.
_ABOVE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What says that a file system cannot reserve room.
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class System:
    """Thin: each method is one call. Paths are single components below an open folder; links are never followed."""

    def open_above(self, path: str) -> int:
        """The folder that the cache directory is in: to find that there, and nothing else."""
        return os.open(path, _ABOVE)

    def open_folder(self, parent: int, name: str) -> int:
        """A folder in a folder."""
        return os.open(name, _FOLDER, dir_fd=parent)

    def make_folder(self, parent: int, name: str) -> None:
        """A folder for nobody else."""
        os.mkdir(name, 0o700, dir_fd=parent)

    def create(self, folder: int, name: str) -> int:
        """A new file for nobody else."""
        return os.open(name, _NEW, 0o600, dir_fd=folder)

    def open_file(self, folder: int, name: str, *, writing: bool = False) -> int:
        """A file that is there. Without waiting, should it be a pipe."""
        access = os.O_RDWR if writing else os.O_RDONLY
        return os.open(name, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)

    def close(self, fd: int) -> None:
        """Any descriptor."""
        os.close(fd)

    def stat(self, fd: int) -> os.stat_result:
        """Of an open file."""
        return os.fstat(fd)

    def read(self, fd: int, buffers: Sequence[Any]) -> int:
        """From where the last call ended; may give less."""
        return os.readv(fd, buffers)

    def write(self, fd: int, buffers: Sequence[Any]) -> int:
        """To where the last call ended; may take less."""
        return os.writev(fd, buffers)

    def allocate(self, fd: int, size: int) -> None:
        """Reserve room, where the system can: a full disk shows here, before any data is written."""
        # Not everywhere (macOS has none), and not on every file system.
        if sys.platform == "linux":
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise

    def sync(self, fd: int) -> None:
        """Until it is on the medium."""
        if sys.platform == "darwin":
            # fsync ends at the drive's own cache there.
            try:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
                return
            except OSError:
                pass
        os.fsync(fd)

    def rename(self, source_folder: int, source: str, folder: int, name: str) -> None:
        """In one step, over what may be there."""
        os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)

    def link(self, folder: int, source: str, name: str) -> None:
        """A second name; fails where there is one already."""
        os.link(source, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)

    def remove(self, folder: int, name: str) -> None:
        """A file."""
        os.unlink(name, dir_fd=folder)

    def touch(self, folder: int, name: str, seconds: float) -> None:
        """Set when it was used last."""
        os.utime(name, (seconds, seconds), dir_fd=folder, follow_symlinks=False)

    def sleep(self, seconds: float) -> None:
        """Let others work."""
        time.sleep(seconds)

    def try_lock(self, fd: int) -> bool:
        """Take a file's lock if nobody has it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def lock(self, fd: int) -> None:
        """Take a file's lock, sooner or later."""
        fcntl.flock(fd, fcntl.LOCK_EX)

    def list(self, folder: int) -> Iterator[os.DirEntry[str]]:
        """What is in a folder."""
        with os.scandir(folder) as entries:
            yield from entries
