"""What is worth keeping: the eviction policy, pure and replaceable.

The cache asks for one number per evictable thing and evicts the smallest. The number is set when the thing is made
or used and does not change until it is used again, so a heap can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Usage:
    """What is remembered about the use of one edge or one state. `hits` decays, `priority` is what eviction sorts by."""

    hits: float
    last: float
    priority: float

    def copy(self) -> Usage:
        """An independent copy, for the two parts of a split edge."""
        return Usage(self.hits, self.last, self.priority)


class EvictionPolicy(Protocol):
    """Decides the order of eviction. Called with the cache's lock held: no copies, no files, no callbacks."""

    def made(self, *, value: float) -> Usage:
        """Something new; `value` is the seconds that keeping it saves per byte, relative to a plain token."""
        ...

    def used(self, usage: Usage, *, value: float) -> None:
        """A fetch was served from it."""
        ...

    def evicted(self, usage: Usage) -> None:
        """It was the least valuable and went."""
        ...


class LeafLru:
    """Least recently used. The baseline, and what to use where repeat hits are rare."""

    def __init__(self) -> None:
        self._now = 0.0

    def made(self, *, value: float) -> Usage:
        """See EvictionPolicy."""
        self._now += 1.0
        return Usage(0.0, self._now, self._now)

    def used(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        self._now += 1.0
        usage.hits += 1.0
        usage.last = usage.priority = self._now

    def evicted(self, usage: Usage) -> None:
        """See EvictionPolicy."""
