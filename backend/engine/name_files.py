"""The names of prefixes that outlive the process, one small file each. Any thread; every call may wait for the disk."""

import base64
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline

log = logging.getLogger(__name__)

FOLDER = "names"
MAX_BYTES = 16 << 20
_TEMPORARY = ".tmp"
# JSON that is no object has neither keys nor `pop`.
_NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True, eq=False)
class KeptName:
    """A name as its file has it: `tokens` int32, `[n]`; `made_at` in seconds since the epoch."""

    tenant: str
    name: str
    tokens: NDArray[np.int32]
    made_at: float


def disk_namespace(namespace: str, tenant: str) -> str:
    """What the disk tier has one tenant's KV of a model under; `namespace` is the model's."""
    return f"{len(namespace)}:{namespace}:{tenant}"


class NameFiles:
    """Files below `DIRECTORY/names`, by a hash of namespace, tenant and name: no text of a client is part of a path."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._known: list[tuple[str, KeptName]] = []

    def read(self) -> None:
        """Learn what is there. A file that is not whole is left out, and said once."""
        found: list[tuple[str, KeptName]] = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(_parsed(path))
            except _NOT_WHOLE as error:
                log.warning(logline("name_file_not_read", file=path.name, error=type(error).__name__))
        self._known = sorted(found, key=lambda one: one[1].made_at)

    def known(self, namespace: str) -> list[KeptName]:
        """The names of one model's KV as of the last `read`, oldest first; no file is touched."""
        return [kept for whose, kept in self._known if whose == namespace]

    def everything(self) -> list[tuple[str, KeptName]]:
        """The names of all models as of the last `read`, each with its model's namespace, oldest first."""
        return list(self._known)

    def bad(self) -> Iterator[tuple[str, str]]:
        """Each file that is not whole, below the directory, and why."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                _parsed(path)
            except FileNotFoundError:
                continue
            except _NOT_WHOLE as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else "not what was written"
                yield f"{FOLDER}/{path.name}", why

    def clear(self) -> None:
        """Forget every name of every model.

        Raises:
            OSError: One cannot be removed.
        """
        for path in self._folder.glob("*.json"):
            path.unlink(missing_ok=True)

    def write(self, namespace: str, kept: KeptName) -> None:
        """Keep a name, in place of what had it.

        Raises:
            OSError: The disk does not take it.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for left in self._folder.glob(f"*{_TEMPORARY}"):
            # Of a worker that was killed; one that is being written now is younger.
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink()
        path = self._path(namespace, kept.tenant, kept.name)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
        try:
            _write_whole(temporary, _written(namespace, kept))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, namespace: str, tenant: str, name: str) -> None:
        """Forget a name; harmless where there is none."""
        self._path(namespace, tenant, name).unlink(missing_ok=True)

    def _path(self, namespace: str, tenant: str, name: str) -> Path:
        return self._folder / f"{_digest(namespace)}-{_digest(f'{tenant}/{name}')}.json"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _written(namespace: str, kept: KeptName) -> bytes:
    body = {
        "namespace": namespace,
        "tenant": kept.tenant,
        "name": kept.name,
        "made_at": kept.made_at,
        "tokens": base64.b64encode(np.ascontiguousarray(kept.tokens, "<i4").tobytes()).decode(),
    }
    return json.dumps(body | {"check": _check(body)}).encode()


def _parsed(path: Path) -> tuple[str, KeptName]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    body: dict[str, Any] = json.loads(data)
    if body.pop("check") != _check(body):
        raise ValueError("not what was written")
    tokens = np.frombuffer(base64.b64decode(body["tokens"]), "<i4").astype(np.int32)
    return str(body["namespace"]), KeptName(str(body["tenant"]), str(body["name"]), tokens, float(body["made_at"]))


def _check(body: dict[str, Any]) -> str:
    return _digest(json.dumps(body, sort_keys=True))


def _write_whole(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
