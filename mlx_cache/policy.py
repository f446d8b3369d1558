"""The eviction policy: pure and replaceable.

The cache asks for one number per evictable thing and evicts the smallest. The number is set when the thing is made
or used and does not change until it is used again, so a heap can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlx_cache.blocks import Layout


@dataclass(slots=True)
class Usage:
    """What is remembered about the use of one edge or snapshot. `hits` decays; eviction sorts by `priority`."""

    hits: float
    last: float
    priority: float

    def copy(self) -> Usage:
        """An independent copy, for the two parts of a split edge."""
        return Usage(self.hits, self.last, self.priority)


@dataclass(frozen=True, slots=True)
class Limits:
    """The cache's limits at this moment."""

    max_bytes: int
    max_size: int
    max_buffers: int


@dataclass(frozen=True, slots=True)
class Storing:
    """What an insert is asked to store: the arguments of `Index.plan_insert`."""

    key: Hashable
    layout: Layout
    tokens: NDArray[np.int32]
    snapshot: bool
    state_nbytes: int
    available: list[int]


class EvictionPolicy(Protocol):
    """Decides the order of eviction. Called with the cache's lock held: no copies, no files, no callbacks.

    `value` is the prefill work that a byte saves when it is used, 1.0 for the plain key/value entries of a token.
    """

    @property
    def n_orders(self) -> int:
        """How many orders it keeps, each a heap."""
        ...

    def tick(self) -> None:
        """A fetch or an insert begins; what it touches counts as one moment."""
        ...

    def made(self, *, value: float) -> Usage:
        """Something new was stored."""
        ...

    def used(self, usage: Usage, *, value: float) -> None:
        """A fetch was served from it."""
        ...

    def stored_again(self, usage: Usage, *, value: float) -> None:
        """An insert found it stored already."""
        ...

    def evicted(self, usage: Usage, *, tokens: int) -> None:
        """It was the least valuable and went, and with it the prefill of so many tokens."""
        ...

    def priorities(self, usage: Usage) -> tuple[float, ...]:
        """Its place in each order that the policy keeps: the lowest goes first."""
        ...

    def order(self) -> int:
        """Which of the orders the next eviction follows."""
        ...


@runtime_checkable
class WatchingPolicy(EvictionPolicy, Protocol):
    """A policy that also sees what is asked for and stored, to learn what another order would have served.

    `tokens` must not be changed afterwards. Layouts and the rest are as in `Index.plan_insert`.
    """

    def asked(self, key: Hashable, tokens: NDArray[np.int32], *, limit: int, length: int) -> None:
        """A fetch of at most `limit` tokens was served `length` of them."""
        ...

    def storing(self, storing: Storing, limits: Limits) -> None:
        """An insert begins, for which room may have to be made."""
        ...

    def dropped(self, key: Hashable) -> None:
        """A namespace is gone."""
        ...


class LeafLru:
    """Least recently used: the baseline, and the choice where it matters that eviction is easy to predict."""

    n_orders = 1

    def __init__(self) -> None:
        self._now = 0.0
        self.passed = -1.0
        """The latest moment of use of anything that was evicted."""

    def tick(self) -> None:
        """See EvictionPolicy."""
        self._now += 1.0

    def made(self, *, value: float) -> Usage:
        """See EvictionPolicy."""
        return Usage(0.0, self._now, self._now)

    def used(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        usage.hits += 1.0
        usage.last = usage.priority = self._now

    def stored_again(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        usage.last = usage.priority = self._now

    def evicted(self, usage: Usage, *, tokens: int) -> None:
        """See EvictionPolicy."""
        self.passed = max(self.passed, usage.last)

    def priorities(self, usage: Usage) -> tuple[float, ...]:
        """See EvictionPolicy."""
        return (usage.priority,)

    def order(self) -> int:
        """See EvictionPolicy."""
        return 0


class ValuePerByte:
    """Evicts what saves the least work per byte, by how often and how lately it was used.

    If uses come at a rate of (1 + hits), hits halving every H moments, the expected saving of a byte at age a is
    value * (1 + hits) * 2 ** (-a / H). Its logarithm sorts alike at every moment:
    priority = last + H * log2(value * (1 + hits)). H is how long things last here: the running mean of the ages at
    which they are evicted. So nothing is tuned to a workload or a size; with H = 0, at the start, this is LRU.
    """

    n_orders = 1
    _SMOOTHING = 0.02

    def __init__(self) -> None:
        self._now = 0.0
        self._lasting = 0.0

    def tick(self) -> None:
        """See EvictionPolicy."""
        self._now += 1.0

    def made(self, *, value: float) -> Usage:
        """See EvictionPolicy."""
        usage = Usage(0.0, self._now, 0.0)
        self._rank(usage, value)
        return usage

    def used(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        if self._lasting > 0:
            usage.hits *= 0.5 ** ((self._now - usage.last) / self._lasting)
        usage.hits += 1.0
        usage.last = self._now
        self._rank(usage, value)

    def stored_again(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        usage.last = self._now
        self._rank(usage, value)

    def evicted(self, usage: Usage, *, tokens: int) -> None:
        """See EvictionPolicy."""
        age = self._now - usage.last
        self._lasting += self._SMOOTHING * (age - self._lasting) if self._lasting else age

    def priorities(self, usage: Usage) -> tuple[float, ...]:
        """See EvictionPolicy."""
        return (usage.priority,)

    def order(self) -> int:
        """See EvictionPolicy."""
        return 0

    def _rank(self, usage: Usage, value: float) -> None:
        usage.priority = self._now + self._lasting * math.log2((1.0 + usage.hits) * max(value, 1e-9))
