"""Bytes written on a day, by all workers on a directory. The count is in a file, so a restart does not begin anew."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress

from mlx_cache.disk.directory import Directory
from mlx_cache.disk.system import System

_FILE = "written"
_STEP = 64 << 20
"""Bytes after which the file learns of them: what a killed worker may forget."""


class DailyBytes:
    """The writer thread's. Without a limit it counts all the same, in memory alone."""

    def __init__(self, directory: Directory, system: System, clock: Callable[[], float], max_bytes: int | None) -> None:
        self._directory = directory
        self._system = system
        self._clock = clock
        self._max_bytes = max_bytes
        self._day = ""
        self._known = 0
        self._new = 0

    @property
    def written(self) -> int:
        """Bytes of today, as far as known."""
        return self._known + self._new if self._day == self._today() else 0

    def allows(self, nbytes: int) -> bool:
        """Whether so many bytes may be written today."""
        self._turn()
        return self._max_bytes is None or self._known + self._new + nbytes <= self._max_bytes

    def add(self, nbytes: int) -> None:
        """They were written."""
        self._turn()
        self._new += nbytes
        if self._new >= min(_STEP, max(1, (self._max_bytes or _STEP) // 16)):
            self.save()

    def _today(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self._clock()))

    def _turn(self) -> None:
        if self._day != self._today():
            self._day, self._known, self._new = self._today(), 0, 0
            self.save()

    def save(self) -> None:
        """Add what is new to the file, and learn what other workers have written. Raises OSError."""
        if self._max_bytes is None:
            self._known, self._new = self._known + self._new, 0
            return
        with self._directory.root() as root:
            try:
                fd = self._system.open_file(root, _FILE, writing=True)
            except FileNotFoundError:
                # Another worker may make it just now.
                with suppress(FileExistsError):
                    self._system.close(self._system.create(root, _FILE))
                fd = self._system.open_file(root, _FILE, writing=True)
            try:
                self._system.lock(fd)
                told = bytearray(64)
                told = bytes(told[: self._system.read(fd, [told])])
                match = re.fullmatch(rb"(\d{4}-\d\d-\d\d) (\d{1,18})\n *", told)
                known = int(match[2]) if match is not None and match[1].decode() == self._day else self._known
                self._known, self._new = known + self._new, 0
                os.lseek(fd, 0, os.SEEK_SET)
                self._system.write(fd, [f"{self._day} {self._known}\n".encode().ljust(40)])
            finally:
                self._system.close(fd)
