"""One file: written so that it is whole or not there, read so that nothing wrong in it gets through."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np

from mlx_cache.disk.codec import Bytes, Part
from mlx_cache.disk.directory import Directory
from mlx_cache.disk.format import PAGE, BadFile, Header, decode, encode, header_length
from mlx_cache.disk.names import Chain, Name
from mlx_cache.disk.root import QUARANTINE, temporary_name
from mlx_cache.disk.system import System


class Files:
    """Files of an open directory. Any thread; blocks as long as the disk does."""

    def __init__(self, directory: Directory, chain: Chain, system: System) -> None:
        self._directory = directory
        self._chain = chain
        self._system = system

    def write(self, header: Header, body: Bytes) -> int:
        """Write a file under its name; returns its bytes. Raises OSError, and leaves nothing then."""
        head = encode(replace(header, crc=zlib.crc32(body.data), body_nbytes=body.nbytes), self._chain)
        with self._directory.of(header.name, make=True) as folder:
            with self._temporary(folder) as (fd, temporary):
                self._fill(fd, head, body)
                self._system.rename(folder, temporary, folder, header.name.file)
            self._system.sync(folder)
        return len(head) + body.nbytes

    @contextmanager
    def _temporary(self, folder: int) -> Generator[tuple[int, str]]:
        """A new file that no sweep removes while it is open, and that does not stay if anything goes wrong."""
        fd, temporary, locked = -1, "", False
        try:
            while not locked:
                if fd >= 0:
                    self._system.close(fd)
                temporary = temporary_name()
                fd = self._system.create(folder, temporary)
                # Another worker's sweep may have come between creating and locking.
                locked = self._system.try_lock(fd) and self._system.stat(fd).st_nlink > 0
            yield fd, temporary
        except BaseException:
            with suppress(OSError):
                self._system.remove(folder, temporary)
            raise
        finally:
            if fd >= 0:
                self._system.close(fd)

    def _fill(self, fd: int, head: bytes, body: Bytes) -> None:
        self._system.allocate(fd, len(head) + body.nbytes)
        waiting = [memoryview(head), body.data]
        while waiting:
            done = self._system.write(fd, waiting)
            while waiting and done >= len(waiting[0]):
                done -= len(waiting.pop(0))
            if waiting:
                waiting[0] = waiting[0][done:]
        self._system.sync(fd)

    @contextmanager
    def reading(self, name: Name) -> Generator[Reader]:
        """Open a file. Raises OSError; FileNotFoundError where another worker has removed it."""
        with self._directory.of(name) as folder:
            fd = self._system.open_file(folder, name.file)
        try:
            yield Reader(fd, name, self._chain, self._system)
        finally:
            self._system.close(fd)

    def quarantine(self, name: Name, *, max_files: int, max_nbytes: int) -> None:
        """Put a file aside, or remove it where it does not fit; the oldest go first. Raises OSError."""
        kept = f"{name.namespace}-{name.file}"
        with self._directory.folder(QUARANTINE, make=True) as aside:
            with suppress(FileNotFoundError), self._directory.of(name) as folder:
                self._system.rename(folder, name.file, aside, kept)
            there: list[tuple[float, str, int]] = []
            for entry in list(self._system.list(aside)):
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    there.append((about.st_ctime, entry.name, about.st_size))
            there.sort()
            while there and (len(there) > max_files or sum(size for _, _, size in there) > max_nbytes):
                with suppress(FileNotFoundError):
                    self._system.remove(aside, there.pop(0)[1])


class Reader:
    """An open file, read from its start to its end."""

    def __init__(self, fd: int, name: Name, chain: Chain, system: System) -> None:
        self._fd = fd
        self._name = name
        self._chain = chain
        self._system = system

    def header(self) -> Header:
        """The header, checked: written by somebody who knows the secret, and under this name. Raises BadFile."""
        about = self._system.stat(self._fd)
        if not stat.S_ISREG(about.st_mode):
            raise BadFile("not a regular file")
        page = bytearray(PAGE)
        self._read(memoryview(page))
        told = bytearray(header_length(bytes(page)))
        told[:PAGE] = page
        self._read(memoryview(told)[PAGE:])
        header = decode(bytes(told), self._chain, about.st_size)
        if header.name != self._name:
            raise BadFile("holds what belongs under another name")
        return header

    def body(self, header: Header, parts: list[Part], between: Callable[[], None] = lambda: None) -> None:
        """Read the body piece by piece, then check its checksum. Raises BadFile: what was taken is worth nothing then.

        `between` is called after each piece.

        In pieces of some MiB because a checksum and a copy find them in the processor's cache, and each of the calls
        that do the work lets other threads run.
        """
        if sum(part.nbytes for part in parts) != header.body_nbytes:
            raise BadFile("body of another size than its table says")
        staging = np.empty(max((part.nbytes for part in parts), default=0), np.uint8)
        crc = 0
        for part in parts:
            piece = staging[: part.nbytes]
            self._read(piece.data)
            crc = zlib.crc32(piece.data, crc)
            part.take(piece)
            between()
        if crc != header.crc:
            raise BadFile("body damaged: its checksum is wrong")

    def check(self, header: Header) -> None:
        """Read the body for its checksum alone. Raises BadFile."""
        step = 4 << 20
        sizes = [min(step, header.body_nbytes - at) for at in range(0, header.body_nbytes, step)]
        self.body(header, [Part(size, lambda piece: None) for size in sizes])

    def _read(self, into: memoryview) -> None:
        while len(into):
            done = self._system.read(self._fd, [into])
            if done == 0:
                raise BadFile("cut off")
            into = into[done:]
