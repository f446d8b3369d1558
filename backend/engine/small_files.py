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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.core.utf8 import is_unicode

log = logging.getLogger(__name__)

_TEMPORARY = ".tmp"
# JSON that is no object has neither keys nor `pop`.
_NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

T = TypeVar("T")


class SmallFiles:
    """The files `NAME.json` of one folder, made when the first is written.

    Args:
        max_bytes: Of a file that is read, at most.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def parsed(self, parse: Callable[[dict[str, Any]], T]) -> Iterator[tuple[str, T]]:
        """The name of each file, and what `parse` makes of it. One that is not whole is left out, and said once."""
        for path in self._paths():
            try:
                yield path.stem, parse(self._body(path))
            except _NOT_WHOLE as error:
                log.warning(logline("small_file_not_read", file=self._told(path), error=type(error).__name__))

    def one(self, name: str, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """What `parse` makes of one file; None where there is none, or it is not whole."""
        with suppress(*_NOT_WHOLE):
            return parse(self._body(self._path(name)))
        return None

    def bad(self, parse: Callable[[dict[str, Any]], object]) -> Iterator[tuple[str, str]]:
        """Each file that is not whole, with its folder, and why."""
        for path in self._paths():
            try:
                parse(self._body(path))
            except FileNotFoundError:
                continue
            except _NOT_WHOLE as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else "not what was written"
                yield self._told(path), why

    def write(self, name: str, body: dict[str, Any]) -> None:
        """Keep this, in place of what had the name.

        Raises:
            OSError: The disk does not take it.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for left in self._folder.glob(f"*{_TEMPORARY}"):
            # Of a worker that was killed; one that is being written now is younger.
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink()
        path = self._path(name)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
        try:
            _write_whole(temporary, json.dumps(body | {"check": _check(body)}).encode())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Forget one; harmless where there is none."""
        self._path(name).unlink(missing_ok=True)

    def clear(self, which: Callable[[str, str], bool] | None = None) -> None:
        """Forget all, or those whose `namespace` and `tenant` are meant; one that is not whole stays, telling neither.

        Raises:
            OSError: One cannot be removed.
        """
        if which is None:
            for path in self._paths():
                path.unlink(missing_ok=True)
            return
        for name, (namespace, tenant) in self.parsed(
            lambda body: (text_of(body, "namespace"), text_of(body, "tenant"))
        ):
            if which(namespace, tenant):
                self.remove(name)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _told(self, path: Path) -> str:
        return f"{self._folder.name}/{path.name}"

    def _body(self, path: Path) -> dict[str, Any]:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
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


def _write_whole(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
