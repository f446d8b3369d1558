"""Prefixes that somebody gave a name: they stay in the prompt cache until they are deleted."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_cache.tree import common_prefix

# Each is looked at on every fetch of its tenant.
MOST_NAMES = 256


@dataclass(slots=True, eq=False)
class NamedPrefix:
    """A name and what it holds: `tokens` int32, `[n]`; `made_at` and `used_at` in monotonic seconds.

    Attributes:
        pinned: Its KV is held in memory; else only its files are.
    """

    tenant: str
    name: str
    tokens: NDArray[np.int32]
    made_at: float
    used_at: float | None = None
    hits: int = 0
    pinned: bool = False

    @property
    def pin(self) -> str:
        """What the prompt cache knows it by; no tenant has a slash in it."""
        return f"{self.tenant}/{self.name}"


@dataclass(slots=True)
class NamedPrefixes:
    """Engine thread only. Names are each tenant's own."""

    _by_name: dict[tuple[str, str], NamedPrefix] = field(default_factory=dict[tuple[str, str], NamedPrefix])

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[NamedPrefix]:
        return iter(self._by_name.values())

    def get(self, tenant: str, name: str) -> NamedPrefix | None:
        """The prefix of this name."""
        return self._by_name.get((tenant, name))

    def add(self, prefix: NamedPrefix) -> None:
        """Take a prefix over as it is."""
        self._by_name[prefix.tenant, prefix.name] = prefix

    def put(self, tenant: str, name: str, tokens: NDArray[np.int32], now: float) -> NamedPrefix:
        """Give a prefix a name, in place of what had it; its hits go on."""
        before = self.get(tenant, name)
        prefix = NamedPrefix(tenant, name, tokens, now)
        if before is not None:
            prefix.made_at, prefix.used_at, prefix.hits = before.made_at, before.used_at, before.hits
        self._by_name[tenant, name] = prefix
        return prefix

    def remove(self, tenant: str, name: str) -> NamedPrefix | None:
        """Forget a name; what it held."""
        return self._by_name.pop((tenant, name), None)

    def length(self, tenant: str, tokens: NDArray[np.int32]) -> int:
        """The tokens that a prompt has in common with a name of the tenant, at most."""
        own = (prefix for prefix in self._by_name.values() if prefix.tenant == tenant)
        return max((common_prefix(prefix.tokens, tokens) for prefix in own), default=0)

    def used(self, tenant: str, tokens: NDArray[np.int32], length: int, now: float) -> None:
        """A fetch of this prompt was served `length` tokens: count it for the names that it took whole."""
        for prefix in self._by_name.values():
            n = len(prefix.tokens)
            if prefix.tenant == tenant and n <= length and common_prefix(prefix.tokens, tokens) == n:
                prefix.hits += 1
                prefix.used_at = now
