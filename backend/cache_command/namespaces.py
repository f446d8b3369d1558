"""A cache directory's files by namespace, and the names beside them."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backend.cache_command.answer import Failed
from backend.engine.name_files import KeptName
from backend.terminal.showing import age, count, size
from mlx_cache.disk import Stored

SHORT: Final = 16
"""Digits of a namespace that a table has room for."""
HEADINGS: Final = ("NAMESPACE", "FILES", "TOKENS", "SIZE", "LAST USED", "AGE", "NAMES")
NAME_HEADINGS: Final = ("NAME", "TOKENS", "AGE", "NAMESPACE", "TENANT")


@dataclass(slots=True, kw_only=True)
class Namespace:
    """What one model has of one tenant.

    Attributes:
        folder: 32 hex digits, a keyed hash: neither model nor tenant can be read from it.
        last_used_s, least_used_s: Seconds since any file, and since every file of it, was used; None without files.
        kinds: Files by the ending of their names.
    """

    folder: str
    files: int = 0
    tokens: int = 0
    nbytes: int = 0
    last_used_s: float | None = None
    least_used_s: float | None = None
    kinds: Counter[str] = field(default_factory=Counter[str])
    names: list[KeptName] = field(default_factory=list[KeptName])

    def add(self, file: Stored) -> None:
        """Count a file."""
        self.files += 1
        self.tokens += file.tokens
        self.nbytes += file.nbytes
        self.last_used_s = file.age if self.last_used_s is None else min(file.age, self.last_used_s)
        self.least_used_s = file.age if self.least_used_s is None else max(file.age, self.least_used_s)
        self.kinds[file.file.rpartition(".")[2]] += 1


def by_namespace(files: Iterable[Stored], names: Iterable[tuple[str, KeptName]]) -> list[Namespace]:
    """Namespaces that have a file or a name, those used last first.

    Args:
        names: Each with the folder of its namespace.
    """
    found: dict[str, Namespace] = {}
    for file in files:
        found.setdefault(file.namespace, Namespace(folder=file.namespace)).add(file)
    for folder, kept in names:
        found.setdefault(folder, Namespace(folder=folder)).names.append(kept)
    return sorted(found.values(), key=lambda one: float("inf") if one.last_used_s is None else one.last_used_s)


def the_one(namespaces: Sequence[Namespace], prefix: str) -> Namespace:
    """The namespace that begins like this.

    Raises:
        Failed: None does, or several do.
    """
    found = [one for one in namespaces if prefix and one.folder.startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failed(f"{prefix}: nothing of that name, and no namespace begins like this")
    raise Failed(f"{prefix}: {len(found)} namespaces begin like this: {', '.join(one.folder[:SHORT] for one in found)}")


def row_of(one: Namespace) -> tuple[str, ...]:
    """Its line in a table below `HEADINGS`."""
    return (
        one.folder[:SHORT],
        count(one.files),
        count(one.tokens),
        size(one.nbytes),
        _since(one.last_used_s),
        _since(one.least_used_s),
        ", ".join(kept.name for kept in one.names) or "-",
    )


def name_row(kept: KeptName, one: Namespace) -> tuple[str, ...]:
    """A name's line in a table below `NAME_HEADINGS`."""
    return kept.name, count(len(kept.tokens)), age(_age_s(kept)), one.folder[:SHORT], kept.tenant[:SHORT] or "-"


def facts_of(one: Namespace) -> dict[str, str]:
    """All that is known of it, for people."""
    kinds = ", ".join(f"{count(n)} .{kind}" for kind, n in sorted(one.kinds.items()))
    return {
        "namespace": one.folder,
        "files": f"{count(one.files)} ({kinds})" if kinds else "0",
        "tokens": count(one.tokens),
        "size": size(one.nbytes),
        "last used": _since(one.last_used_s),
        "age": _since(one.least_used_s),
        "names": ", ".join(f"{kept.name} ({count(len(kept.tokens))} tokens)" for kept in one.names) or "-",
    }


def data_of(one: Namespace) -> dict[str, Any]:
    """The same for machines."""
    return {
        "namespace": one.folder,
        "files": one.files,
        "tokens": one.tokens,
        "bytes": one.nbytes,
        "last_used_seconds": one.last_used_s,
        "age_seconds": one.least_used_s,
        "kinds": dict(one.kinds),
        "names": [
            {"name": kept.name, "tokens": len(kept.tokens), "age_seconds": _age_s(kept), "tenant": kept.tenant}
            for kept in one.names
        ],
    }


def _age_s(kept: KeptName) -> float:
    return max(0.0, time.time() - kept.made_at)


def _since(seconds: float | None) -> str:
    return "-" if seconds is None else age(seconds)
