"""What an open tier is made of, and the index work on it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from mlx_cache.disk.catalog import Catalog, Entry, Plan
from mlx_cache.disk.codec import Codec
from mlx_cache.disk.counters import Counters
from mlx_cache.disk.daily import DailyBytes
from mlx_cache.disk.directory import Directory
from mlx_cache.disk.files import Files
from mlx_cache.disk.names import Chain, Kind
from mlx_cache.disk.place import Place
from mlx_cache.disk.root import DiskUnusable
from mlx_cache.disk.system import System
from mlx_cache.disk.write_queue import WriteQueue
from mlx_cache.disk.writer import Writer
from mlx_cache.tree import Tokens

logger = logging.getLogger(__name__)

LOOKED_INTO = 16
"""Blocks whose tokens are looked at, for where in one of them the prompt parts: a page of each is read."""
_QUARANTINED = 32
"""Bad files that are kept, for whoever wants to know what happened to them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """See DiskTier."""

    place: Place
    max_bytes: int
    daily_bytes: int | None
    max_age: float | None
    bytes_per_second: float | None
    queue_bytes: int
    block_tokens: int
    rescan_seconds: float
    clock: Callable[[], float]
    system: System
    codec: Callable[[], Codec]
    changed: Callable[[], None]


class Opened:
    """A tier between `open` and `close`. The lock guards catalog and counters, and is held for index work only.

    Args:
        replace: Called by the writer when the directory has another secret than this was made for.
    """

    def __init__(self, settings: Settings, counters: Counters, replace: Callable[[Opened], None]) -> None:
        self.settings, self.counters = settings, counters
        self.lock = threading.Lock()
        self.clock = settings.clock
        self.directory = Directory(settings.place, settings.system)
        self.directory.open()
        self.replace = partial(replace, self)
        self.chain = Chain(self.directory.secret)
        self.files = Files(self.directory, self.chain, settings.system)
        self.catalog = Catalog(self.chain, settings.block_tokens)
        self.queue = WriteQueue(settings.queue_bytes)
        self.daily = DailyBytes(self.directory, settings.system, settings.clock, settings.daily_bytes)
        self.writer = Writer(self)
        try:
            self.directory.sweep_root()
            self.writer.scan()
        except OSError as error:
            self.directory.close()
            raise DiskUnusable(f"{settings.place.path!s:.200}: {error.strerror or error}") from None
        with suppress(OSError):
            self.daily.allows(0)

    def start(self) -> None:
        """Start the writer. Raises DiskUnusable."""
        try:
            self.writer.start()
        except RuntimeError as error:  # the system starts no more threads
            self.directory.close()
            raise DiskUnusable(f"{self.settings.place.path!s:.200}: {error}") from None

    def close(self, timeout: float) -> None:
        """See DiskTier."""
        deadline = time.monotonic() + timeout
        self.queue.flush(timeout)
        self.queue.close()
        self.dropped(self.queue.drop())
        if self.writer.join(max(0.0, deadline - time.monotonic())):
            self.directory.close()

    def give_up(self) -> None:
        """Write nothing more, not even what waits. The writer ends by itself."""
        self.queue.close()
        self.dropped(self.queue.drop())
        self.directory.close()

    # Index work

    def plan(self, namespace: str, tokens: Tokens, *, use: bool = False) -> Plan:
        """What to read for a prompt; with `use` it counts as used now."""
        folder = self.chain.namespace(namespace)
        with self.lock:
            plan = self.catalog.find(folder, tokens, max(0, len(tokens) - 1))
            if use:
                self.use(plan.entries)
        return plan

    def candidates(self, namespace: str, plan: Plan) -> tuple[list[Entry], list[Entry]]:
        """The plan's whole blocks, and the blocks that a read looks into for a beginning of what comes behind them."""
        blocks = [e for e in plan.entries if e.name.kind is Kind.BLOCK and e.name.n == self.settings.block_tokens]
        if plan.length < len(blocks) * self.settings.block_tokens:
            return blocks, []  # the last of them has all that is wanted
        with self.lock:
            behind = self.catalog.behind(self.chain.namespace(namespace), blocks)
        return blocks, behind[:LOOKED_INTO]

    def use(self, entries: list[Entry], age: float = 0.0) -> None:
        """They were used, so many seconds ago. Called with the lock held."""
        now = self.clock() - age
        for entry in entries:
            entry.used = max(entry.used, now)
        self.writer.used(entries, now)

    def protect(self, namespace: str, tokens: Tokens, change: int) -> None:
        """See DiskTier."""
        keys = self.chain.keys(self.chain.namespace(namespace), tokens, self.settings.block_tokens)
        with self.lock:
            for key in keys:
                self.catalog.protect(key, change)

    def dropped(self, n: int) -> None:
        """Count what is not written."""
        with self.lock:
            self.counters.dropped += n

    def forget_entry(self, entry: Entry) -> None:
        """A file that is not there any more."""
        self.directory.unlearn(entry.name)
        with self.lock:
            self.catalog.remove(entry)

    def quarantine(self, entry: Entry, reason: str) -> None:
        """Put a bad file aside, and say so once."""
        logger.warning("disk tier: %s is put aside: %.200s", entry.name, reason)
        self.directory.unlearn(entry.name)
        with self.lock:
            self.catalog.remove(entry)
            self.counters.quarantined += 1
        with suppress(OSError):
            self.files.quarantine(
                entry.name, max_files=_QUARANTINED, max_nbytes=min(256 << 20, self.settings.max_bytes // 16)
            )

    def stats(self) -> dict[str, Any]:
        """See DiskTier."""
        with self.lock:
            return asdict(self.counters) | {
                "bytes": self.catalog.nbytes,
                "files": len(self.catalog),
                "waiting_bytes": self.queue.nbytes,
                "written_today": self.daily.written,
                "state": f"off: {self.writer.reason}" if self.writer.reason else "on",
            }
