"""Small files of JSON, each whole or not there, with a hash over what it says. Any thread; every call may wait for the
disk."""

import base64
import hashlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.core.utf8 import is_unicode
from mlx_cache.disk import Place

log = logging.getLogger(__name__)

_TEMPORARY = ".tmp"
_SUFFIX = ".json"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# JSON that is no object has neither keys nor `pop`.
_NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

T = TypeVar("T")


class SmallFiles:
    """The files `NAME.json` of one folder of a directory, both made when the first is written.

    Neither may be a link, whatever becomes of them meanwhile.

    Args:
        max_bytes: Of a file that is read, at most.
    """

    def __init__(self, place: Place, folder: str, *, max_bytes: int) -> None:
        self._place = place
        self._folder = folder
        self._max_bytes = max_bytes

    def parsed(self, parse: Callable[[dict[str, Any]], T]) -> Iterator[tuple[str, T]]:
        """The name of each file, and what `parse` makes of it. One that is not whole is left out, and said once."""
        for name in self._names():
            try:
                yield name, parse(self._body(name))
            except _NOT_WHOLE as error:
                log.warning(logline("small_file_not_read", file=self._told(name), error=type(error).__name__))

    def one(self, name: str, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """What `parse` makes of one file; None where there is none, or it is not whole."""
        with suppress(*_NOT_WHOLE):
            return parse(self._body(name))
        return None

    def bad(self, parse: Callable[[dict[str, Any]], object]) -> Iterator[tuple[str, str]]:
        """Each file that is not whole, with its folder, and why."""
        for name in self._names():
            try:
                parse(self._body(name))
            except FileNotFoundError:
                continue
            except _NOT_WHOLE as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else "not what was written"
                yield self._told(name), why

    def write(self, name: str, body: dict[str, Any]) -> None:
        """Keep this, in place of what had the name.

        Raises:
            OSError: The disk does not take it.
        """
        data = json.dumps(body | {"check": _check(body)}).encode()
        temporary = f"{name}{_SUFFIX}.{secrets.token_hex(8)}{_TEMPORARY}"
        with self._opened(make=True) as folder:
            _sweep(folder)
            try:
                _write_whole(temporary, data, folder)
                os.rename(temporary, f"{name}{_SUFFIX}", src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                _remove(temporary, folder)

    def remove(self, name: str) -> None:
        """Forget one; harmless where there is none."""
        with suppress(FileNotFoundError), self._opened() as folder:
            _remove(f"{name}{_SUFFIX}", folder)

    def clear(self, which: Callable[[str, str], bool] | None = None) -> None:
        """Forget all, or those whose `namespace` and `tenant` are meant; one that is not whole stays, telling neither.

        Raises:
            OSError: One cannot be removed.
        """
        if which is None:
            for name in self._names():
                self.remove(name)
            return
        for name, (namespace, tenant) in self.parsed(
            lambda body: (text_of(body, "namespace"), text_of(body, "tenant"))
        ):
            if which(namespace, tenant):
                self.remove(name)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Generator[int]:
        """A descriptor of the folder."""
        above = self._place.open(make=make)
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(self._folder, 0o700, dir_fd=above)
            folder = os.open(self._folder, _FOLDER, dir_fd=above)
        finally:
            os.close(above)
        try:
            yield folder
        finally:
            os.close(folder)

    def _names(self) -> list[str]:
        with suppress(OSError), self._opened() as folder:
            return sorted(name.removesuffix(_SUFFIX) for name in os.listdir(folder) if name.endswith(_SUFFIX))
        return []

    def _told(self, name: str) -> str:
        return f"{self._folder}/{name}{_SUFFIX}"

    def _body(self, name: str) -> dict[str, Any]:
        with self._opened() as folder:
            # A pipe that is opened so has nothing, and keeps nobody waiting.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(f"{name}{_SUFFIX}", flags, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(self._max_bytes + 1)
        body: dict[str, Any] = json.loads(data)
        if body.pop("check") != _check(body):
            raise ValueError("not what was written")
        return body


def digest(text: str) -> str:
    """32 hexadecimal digits, for what must not be part of a path itself."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def text_of(body: dict[str, Any], key: str) -> str:
    """A text of a file. JSON may have surrogates, which neither hashes nor the wire take: those are no text of ours."""
    text = body[key]
    if not isinstance(text, str) or not is_unicode(text):
        raise ValueError("not what was written")
    return text


def seconds_of(body: dict[str, Any], key: str) -> float:
    """A point in time of a file, in seconds since the epoch."""
    seconds = float(body[key])
    if not math.isfinite(seconds):
        raise ValueError("not what was written")
    return seconds


def as_text(tokens: NDArray[np.int32]) -> str:
    """Token ids as JSON can have them."""
    return base64.b64encode(np.ascontiguousarray(tokens, "<i4").tobytes()).decode()


def as_tokens(text: str) -> NDArray[np.int32]:
    """Token ids, int32, `[n]`, as `as_text` wrote them."""
    return np.frombuffer(base64.b64decode(text), "<i4").astype(np.int32)


def _check(body: dict[str, Any]) -> str:
    return digest(json.dumps(body, sort_keys=True))


def _sweep(folder: int) -> None:
    for left in os.listdir(folder):
        # Of a worker that was killed; one that is being written now is younger.
        with suppress(OSError):
            if left.endswith(_TEMPORARY) and time.time() - os.stat(left, dir_fd=folder).st_mtime > 3600:
                os.unlink(left, dir_fd=folder)


def _remove(file: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(file, dir_fd=folder)


def _write_whole(file: str, data: bytes, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as written:
        written.write(data)
        written.flush()
        os.fsync(written.fileno())
