"""The names of prefixes that outlive the process, one small file each. Any thread; every call may wait for the disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.engine.small_files import SmallFiles, as_text, as_tokens, digest, seconds_of, text_of
from mlx_cache.disk import Place

FOLDER = "names"
MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class KeptName:
    """A name as its file has it: `tokens` int32, `[n]`; `made_at` in seconds since the epoch."""

    tenant: str
    name: str
    tokens: NDArray[np.int32]
    made_at: float


def disk_namespace(namespace: str, tenant: str) -> str:
    """What the disk tier has one tenant's KV of a model under; `namespace` is the model's, and one line."""
    return f"{namespace}\n{tenant}"


class NameFiles:
    """Files below `DIRECTORY/names`, by a hash of namespace, tenant and name: no text of a client is part of a path."""

    def __init__(self, place: Place) -> None:
        self._files = SmallFiles(place, FOLDER, max_bytes=MAX_BYTES)
        self._known: list[tuple[str, KeptName]] = []

    def read(self) -> None:
        """Learn what is there. A file that is not whole is left out, and said once."""
        self._known = sorted((found for _, found in self._files.parsed(_parsed)), key=lambda one: one[1].made_at)

    def known(self, namespace: str) -> list[KeptName]:
        """The names of one model's KV as of the last `read`, oldest first; no file is touched."""
        return [kept for whose, kept in self._known if whose == namespace]

    def everything(self) -> list[tuple[str, KeptName]]:
        """The names of all models as of the last `read`, each with its model's namespace, oldest first."""
        return list(self._known)

    def bad(self) -> Iterator[tuple[str, str]]:
        """Each file that is not whole, below the directory, and why."""
        return self._files.bad(_parsed)

    def clear(self, which: Callable[[str, str], bool] | None = None) -> None:
        """Forget all, or those of the models' namespaces and the tenants that are meant, whoever wrote them.

        Raises:
            OSError: One cannot be removed.
        """
        self._files.clear(which)

    def write(self, namespace: str, kept: KeptName) -> None:
        """Keep a name, in place of what had it.

        Raises:
            OSError: The disk does not take it.
        """
        body = {
            "namespace": namespace,
            "tenant": kept.tenant,
            "name": kept.name,
            "made_at": kept.made_at,
            "tokens": as_text(kept.tokens),
        }
        self._files.write(_file(namespace, kept.tenant, kept.name), body)

    def remove(self, namespace: str, tenant: str, name: str) -> None:
        """Forget a name; harmless where there is none."""
        self._files.remove(_file(namespace, tenant, name))


def _file(namespace: str, tenant: str, name: str) -> str:
    return f"{digest(namespace)}-{digest(f'{tenant}/{name}')}"


def _parsed(body: dict[str, Any]) -> tuple[str, KeptName]:
    namespace, tenant, name = (text_of(body, key) for key in ("namespace", "tenant", "name"))
    return namespace, KeptName(tenant, name, as_tokens(body["tokens"]), seconds_of(body, "made_at"))
