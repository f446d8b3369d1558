"""The thread that writes: paced, within the budgets, off for a while when the disk refuses."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_cache.disk.catalog import Entry
from mlx_cache.disk.format import PAGE, Header
from mlx_cache.disk.root import AnotherSecret, DiskUnusable
from mlx_cache.disk.write_queue import Item

if TYPE_CHECKING:
    from mlx_cache.disk.opened import Opened

logger = logging.getLogger(__name__)

_STAMP_SECONDS = 60.0
"""A file's time of use is not written more often: it orders files after a restart, and a minute is enough for that."""
_LEAST_RESCAN = 1.0
_FIRST_BACKOFF, _LAST_BACKOFF = 30.0, 3600.0


class Writer:
    """Owns the writer thread. It alone adds files to the catalog; the lock is held for index work only."""

    def __init__(self, opened: Opened) -> None:
        self._opened, self._settings = opened, opened.settings
        self._directory, self._catalog, self._lock = opened.directory, opened.catalog, opened.lock
        self._queue, self._daily, self._clock = opened.queue, opened.daily, opened.clock
        self._used: deque[Entry] = deque(maxlen=4096)
        self._refused_from = self._refused_until = 0.0
        self._backoff = _FIRST_BACKOFF
        self._scanned_at = self._clock()
        self._written_since_scan = 0
        self._told: set[str] = set()
        self._figures = ("", -1, -1)
        self._lost = False  # the directory cannot be had; `reason` says why
        self.reason = ""
        self.keep_since = math.inf
        self._thread = threading.Thread(target=self._run, name="kv-disk-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if the disk holds it."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def accepts(self) -> bool:
        """Whether it is worth offering something now."""
        # The clock is the time of day, which may be put back: then it is worth a try at once.
        return not self.reason or not self._refused_from <= self._clock() < self._refused_until

    @contextmanager
    def keeping(self, seconds: float) -> Generator[None]:
        """Evict nothing meanwhile that is used from so many seconds ago on."""
        self.keep_since = self._clock() - seconds
        try:
            yield
        finally:
            self.keep_since = math.inf

    def used(self, entries: list[Entry], now: float) -> None:
        """Have the files say that they were used, some time. Called with the lock held."""
        self._used.extend(entry for entry in entries if now - entry.stamped > _STAMP_SECONDS)

    def _run(self) -> None:
        while True:
            item = self._queue.take(min(1.0, self._settings.rescan_seconds))
            taken = item is not None
            try:
                if item is not None:
                    self._handle(item)
                elif self._queue.closed:
                    break
                else:
                    self.housekeep()
                    self._tell()
            except OSError as error:
                self._refuse(error)
            except Exception as error:  # noqa: BLE001 - a file less, whatever it was; the thread must live on
                self._unexpected(error)
            finally:
                # Before: who waits for it may look at once at what memory is taken.
                item = None
                if taken:
                    self._queue.done()
        try:
            self._stamp()
            self._daily.save()
        except OSError:
            pass

    def _tell(self) -> None:
        """Say that the figures are others now: whoever shows them does not ask all the time."""
        figures = (self.reason, len(self._catalog), self._catalog.nbytes)
        if figures != self._figures:
            self._figures = figures
            self._settings.changed()

    def _unexpected(self, error: Exception) -> None:
        self._opened.dropped(1)
        if type(error).__name__ not in self._told:
            self._told.add(type(error).__name__)
            logger.warning("disk tier: not written: %s: %.200s", type(error).__name__, error)

    # Writing

    def _handle(self, item: Item) -> None:
        with self._lock:
            known = self._catalog.get(item.name) is not None
        if known:
            return
        if not self._has_directory() or not self.accepts():
            self._opened.dropped(1)
            return
        size = item.nbytes + PAGE
        if not self._daily.allows(size):
            self._say("the bytes of the day are written", self._clock() + 60.0)
            self._opened.dropped(1)
            return
        if self._scan_is_due():
            self.scan()
        if not self._make_room(size):
            self._opened.dropped(1)
            return
        started = time.monotonic()
        table, body = self._settings.codec().pack(item.layout, item.segments, item.state)
        header = Header(item.name, item.start, item.tokens, table, body.nbytes, 0)
        try:
            written = self._opened.files.write(header, body)
        except FileNotFoundError:
            # Somebody removes the directory at this very moment.
            if not self._has_directory():
                raise
            written = self._opened.files.write(header, body)
        self._added(item, written)
        if self._settings.bytes_per_second:
            self._queue.pause(written / self._settings.bytes_per_second - (time.monotonic() - started))

    def _added(self, item: Item, nbytes: int) -> None:
        now = self._clock()
        self._directory.learn(item.name)
        with self._lock:
            self._catalog.add(Entry(item.name, nbytes, now - item.age, now))
            self._opened.counters.writes += 1
            self._opened.counters.bytes_written += nbytes
        self._written_since_scan += nbytes
        self._backoff, self.reason = _FIRST_BACKOFF, ""
        self._daily.add(nbytes)

    def _make_room(self, size: int) -> bool:
        """Remove the files used least lately until so many bytes fit."""
        while True:
            with self._lock:
                if self._catalog.nbytes + size <= self._settings.max_bytes:
                    return True
                entry = self._catalog.least() if size <= self._settings.max_bytes else None
                if entry is None or entry.used >= self.keep_since:
                    return False
                self._catalog.remove(entry)
                self._opened.counters.evicted += 1
            self._directory.remove(entry.name)

    def _refuse(self, error: OSError) -> None:
        """Write nothing for a while."""
        self._say(f"{error.strerror or error}", self._clock() + self._backoff)
        self._backoff = min(2 * self._backoff, _LAST_BACKOFF)
        self._opened.dropped(1 + self._queue.drop())

    def _say(self, reason: str, until: float) -> None:
        if reason != self.reason:
            logger.warning("disk tier: nothing is written for now: %.200s", reason)
        self.reason, self._refused_from, self._refused_until = reason, self._clock(), until

    # What is done in between

    def _has_directory(self) -> bool:
        """Whether the directory is there, made anew if somebody has taken it away."""
        try:
            renewed = self._renewed()
        except DiskUnusable as error:
            # Asked for again at once and not ever less often: it is no disk that refuses.
            self._lost = True
            self._say(str(error), math.inf)
            return False
        if renewed is None:
            return False
        if renewed:
            logger.warning("disk tier: the directory was taken away, and is made anew")
        if renewed or self._lost:
            self._lost, self._backoff, self.reason = False, _FIRST_BACKOFF, ""
            self.scan()
        return True

    def _renewed(self) -> bool | None:
        """What `Directory.renew` says; None where another tier has taken this one's place."""
        try:
            return self._directory.renew()
        except AnotherSecret:
            self._opened.replace()
            logger.warning("disk tier: the directory is another one now")
            return None

    def housekeep(self) -> None:
        """Have a directory, learn of others' files, say which were used, remove what is too old. Raises OSError."""
        if not self._has_directory():
            return
        if self._scan_is_due():
            self.scan()
        self._stamp()
        self._expire()
        # The budget may be smaller than the last worker's, and other workers write too.
        self._make_room(0)

    def _scan_is_due(self) -> bool:
        # The second bound keeps several workers' files together near the budget, however fast they write.
        since = self._clock() - self._scanned_at
        much = self._written_since_scan > self._settings.max_bytes // 16
        return not 0 <= since <= self._settings.rescan_seconds or (much and since > _LEAST_RESCAN)

    def scan(self) -> None:
        """Learn of the files that other workers made and removed. Raises OSError."""
        self._scanned_at, self._written_since_scan = self._clock(), 0
        for new, gone in self._directory.scan():
            if not (new or gone):
                continue
            with self._lock:
                for entry in filter(None, map(self._catalog.get, gone)):
                    self._catalog.remove(entry)
                for name, nbytes, used in new:
                    if self._catalog.get(name) is None:
                        self._catalog.add(Entry(name, nbytes, used, used))

    def _stamp(self) -> None:
        while self._used:
            entry = self._used.popleft()
            if entry.used - entry.stamped > _STAMP_SECONDS:
                entry.stamped = entry.used
                self._directory.touch(entry.name, entry.used)

    def _expire(self) -> None:
        if self._settings.max_age is None:
            return
        while True:
            with self._lock:
                entry = self._catalog.least()
                if entry is None or self._clock() - entry.used <= self._settings.max_age:
                    return
                self._catalog.remove(entry)
                self._opened.counters.evicted += 1
            self._directory.remove(entry.name)
