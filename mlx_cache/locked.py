"""The index under its lock, and what follows once the lock is released."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mlx_cache.below import Below
from mlx_cache.disk.offers import Offer
from mlx_cache.index import Index
from mlx_cache.stats import Counters


class LockedIndex:
    """Any thread. One lock guards index and counters, and is held for index work only: no copy, no disk, no freeing.

    Args:
        below: What is told of pins and of what is evicted; None without a disk.
    """

    def __init__(self, index: Index, counters: Counters, below: Below | None) -> None:
        self._lock = threading.Lock()
        self._below = below
        self.index = index
        self.counters = counters
        if below is not None:
            index.eviction.on_evict = below.evicting

    @contextmanager
    def looking(self) -> Generator[Index]:
        """The index, locked, for what evicts nothing."""
        with self._lock:
            yield self.index

    @contextmanager
    def changing(self) -> Generator[Index]:
        """The index, locked; what is evicted meanwhile is offered to the disk and freed after the lock is released."""
        trash: list[Any] = []
        noted: list[tuple[str, Offer]] = []
        with self._lock:
            try:
                yield self.index
            finally:
                trash, self.index.eviction.trash = self.index.eviction.trash, trash
                if self._below is not None:
                    noted = self._below.take_notes()
        for namespace, offer in noted:
            assert self._below is not None
            self._below.disk.offer(namespace, offer)
        # After the offers: what the disk has taken lives on in its queue.
        trash.clear()

    def pins_changed(self) -> None:
        """Pins were made, taken away, or hold more than before. With the lock held."""
        if self._below is not None:
            self._below.pins_changed(self.index)
