"""Where a cache directory lies, that it is still there, and ours alone to write."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mlx_cache.disk.system import System


class _Known(NamedTuple):
    folder: str
    folder_is: tuple[int, int]
    device: int


class Place:
    """A cache directory's name in the folder that it is in. Any thread.

    Once the directory has been opened, that folder is the same one, by the same way, or nothing is opened and nothing
    made: what has come in its place, behind a link or where a volume was, is nobody's to fill.
    """

    def __init__(self, path: Path, system: System | None = None) -> None:
        self.path = path
        self._absolute = path.absolute()
        self._name = path.absolute().name or "."
        self._system = system if system is not None else System()
        self._known: _Known | None = None

    def open(self, *, make: bool = False) -> int:
        """A descriptor of the directory; with `make` it is made where nothing is, and at first the way to it as well.

        Raises:
            OSError: There is none, or not where it was, or it is not ours alone to write.
        """
        known = self._known
        if make and known is None:
            self._absolute.parent.mkdir(parents=True, exist_ok=True)
        folder = os.path.realpath(self._absolute.parent)
        try:
            above = self._system.open_above(folder)
        except (FileNotFoundError, NotADirectoryError):
            if known is None:
                raise
            raise _stale("the folder that it was in is gone") from None
        try:
            about = self._system.stat(above)
            folder_is = about.st_dev, about.st_ino
            if known is not None and (folder, folder_is) != (known.folder, known.folder_is):
                raise _stale("the folder that it was in is another one now")
            # Of a volume that is gone, the place that it had is left.
            may_make = make and (known is None or known.device == about.st_dev)
            fd = open_or_make(self._system, above, self._name)[0] if may_make else self._open_in(above)
        finally:
            self._system.close(above)
        return self._checked(fd, folder, folder_is)

    def _open_in(self, above: int) -> int:
        return self._system.open_folder(above, self._name)

    def _checked(self, fd: int, folder: str, folder_is: tuple[int, int]) -> int:
        try:
            about = self._system.stat(fd)
            if self._known is None:
                self._known = _Known(folder, folder_is, about.st_dev)
            elif about.st_dev != self._known.device:
                raise _stale("it is on another volume now")
            check_ours(about)
        except OSError:
            self._system.close(fd)
            raise
        return fd


def open_or_make(system: System, parent: int, name: str) -> tuple[int, bool]:
    """A descriptor of a folder in a folder, and whether there was none until now."""
    try:
        return system.open_folder(parent, name), False
    except FileNotFoundError:
        with suppress(FileExistsError):
            system.make_folder(parent, name)
        return system.open_folder(parent, name), True


def check_ours(about: os.stat_result) -> None:
    """Refuse a folder that somebody else may put something into.

    Raises:
        PermissionError: It is another user's, or others can write it.
    """
    if about.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "can be written by others")


def _stale(words: str) -> OSError:
    return OSError(errno.ESTALE, words)
