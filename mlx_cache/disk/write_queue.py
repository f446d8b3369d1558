"""What waits to be written, bounded in bytes: whoever offers never waits, and what does not fit is dropped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from mlx_cache.blocks import Layout, State
from mlx_cache.disk.codec import Segment
from mlx_cache.disk.names import Name
from mlx_cache.tree import Tokens


@dataclass(slots=True, eq=False)
class Item:
    """A file to be."""

    name: Name
    start: int
    tokens: Tokens
    layout: Layout
    segments: list[Segment]
    state: State | None
    nbytes: int
    age: float


class WriteQueue:
    """Any thread. `busy` is whether something waits or is being written."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._names: set[Name] = set()
        self._writing: Item | None = None
        self._nbytes = 0
        self._closed = False
        self._hurry = 0

    def __contains__(self, name: Name) -> bool:
        with self._changed:
            return name in self._names

    @property
    def nbytes(self) -> int:
        """Bytes that wait or are being written."""
        return self._nbytes

    def put(self, item: Item, *, timeout: float = 0.0) -> bool:
        """Add a file to be; False if there is no room within the time, or the queue is closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._fits(item), timeout) or self._closed:
                return False
            if item.name not in self._names:
                self._items.append(item)
                self._names.add(item.name)
                self._nbytes += item.nbytes
                self._changed.notify_all()
            return True

    def _fits(self, item: Item) -> bool:
        # A file larger than the whole queue may wait alone.
        return self._nbytes + item.nbytes <= self._max_bytes or not self._names

    def take(self, timeout: float) -> Item | None:
        """The next file to write; None after the time, or at once when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            self._writing = self._items.popleft()
            return self._writing

    def done(self) -> None:
        """What was taken is written, or given up."""
        with self._changed:
            if self._writing is not None:
                self._forget(self._writing)
            self._writing = None
            self._changed.notify_all()

    def drop(self, beginning: str = "") -> int:
        """Give up what waits of the namespaces that begin like this; returns how many."""
        with self._changed:
            gone = [item for item in self._items if item.name.namespace.startswith(beginning)]
            self._items = deque(item for item in self._items if not item.name.namespace.startswith(beginning))
            for item in gone:
                self._forget(item)
            self._changed.notify_all()
            return len(gone)

    def _forget(self, item: Item) -> None:
        self._names.discard(item.name)
        self._nbytes -= item.nbytes

    def pause(self, seconds: float) -> None:
        """Wait as long, unless the queue is being flushed or closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._hurry or self._closed, seconds)

    @contextmanager
    def unpaced(self) -> Generator[None]:
        """Without pauses meanwhile."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._hurry -= 1

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits, without pauses; False if the time was not enough."""
        with self.unpaced(), self._changed:
            return self._changed.wait_for(lambda: not self._names, timeout)

    def close(self) -> None:
        """Take nothing more, and wake everybody."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closed
