"""What outlives the process of conversations that have an id: what each left in the cache, and when. Any thread; every
call but `key` and `known` may wait for the disk."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.engine.small_files import SmallFiles, as_text, as_tokens, digest, seconds_of, text_of
from mlx_cache.disk import Place

FOLDER = "conversations"
MAX_BYTES = 64 << 20
# Of all models. Those of one that is never loaded again would stay for ever.
MOST_FILES = 4096
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, eq=False)
class KeptConversation:
    """A conversation as its file has it.

    Attributes:
        key: Stands for its id, which is not on the disk.
        branches: The sequences that it left: int32, `[n]` each.
        last: Of its last turn, in seconds since the epoch.
    """

    tenant: str
    key: str
    branches: tuple[NDArray[np.int32], ...]
    last: float


class ConversationFiles:
    """Files below `DIRECTORY/conversations`, one each.

    Args:
        label: Makes a keyed hash of a text, 32 hexadecimal digits: ids are short enough to be guessed from one without
            a key.
    """

    def __init__(self, place: Place, label: Callable[[str], str]) -> None:
        self._files = SmallFiles(place, FOLDER, max_bytes=MAX_BYTES)
        self._label = label
        self._known: list[tuple[str, KeptConversation]] = []

    def key(self, tenant: str, conversation_id: str) -> str:
        """What stands for a tenant's id."""
        return self._label(f"{tenant}/{conversation_id}")

    def read(self) -> None:
        """Learn what is there. A file that is not whole is left out, and said once; the oldest of too many go.

        Raises:
            OSError: One cannot be removed.
        """
        found = sorted((found for _, found in self._files.parsed(_parsed)), key=lambda one: one[1].last)
        for namespace, kept in found[:-MOST_FILES]:
            self.remove(namespace, kept.key)
        self._known = found[-MOST_FILES:]

    def known(self, namespace: str) -> list[KeptConversation]:
        """Those of one model's KV as of the last `read`, the idlest first; no file is touched."""
        return [kept for whose, kept in self._known if whose == namespace]

    def last(self, namespace: str, key: str) -> float:
        """When its last turn was, whichever process had it; 0 where there is no file."""
        found = self._files.one(_file(namespace, key), _parsed)
        return found[1].last if found is not None else 0.0

    def bad(self) -> Iterator[tuple[str, str]]:
        """Each file that is not whole, below the directory, and why."""
        return self._files.bad(_parsed)

    def write(self, namespace: str, kept: KeptConversation) -> None:
        """Keep a conversation as it is now.

        Raises:
            OSError: The disk does not take it.
        """
        body = {
            "namespace": namespace,
            "tenant": kept.tenant,
            "key": kept.key,
            "branches": [as_text(branch) for branch in kept.branches],
            "last": kept.last,
        }
        self._files.write(_file(namespace, kept.key), body)

    def remove(self, namespace: str, key: str) -> None:
        """Forget a conversation; harmless where there is none."""
        self._files.remove(_file(namespace, key))

    def clear(self, which: Callable[[str, str], bool] | None = None) -> None:
        """Forget all, or those of the namespaces and tenants that are meant, whoever wrote them.

        Raises:
            OSError: One cannot be removed.
        """
        self._files.clear(which)


def _file(namespace: str, key: str) -> str:
    return f"{digest(namespace)}-{key}"


def _parsed(body: dict[str, Any]) -> tuple[str, KeptConversation]:
    namespace, tenant, key = (text_of(body, name) for name in ("namespace", "tenant", "key"))
    if not _KEY.fullmatch(key):  # it becomes part of a path again
        raise ValueError("not what was written")
    branches = tuple(as_tokens(branch) for branch in body["branches"])
    return namespace, KeptConversation(tenant, key, branches, seconds_of(body, "last"))
