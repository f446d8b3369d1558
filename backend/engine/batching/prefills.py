"""The prompts on their way into the batch: whose chunk runs next, and who waits for whose prefix."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.engine.batching import row_caches
from backend.engine.batching.batch import Model, prefill
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import Prefilling, next_end, plan_chunks
from backend.engine.loading.failures import FOREIGN
from backend.engine.picture import Counters
from backend.engine.waits import drain

# Waiting for another row's prefill pays once it saves at least this many tokens.
SHARE_AT_LEAST = 64
REPORT_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Prefills:
    """Engine thread only. Invariant: a row either has caches and runs, or has a leader in `rows` and waits.

    Args:
        settle: Waits for what the batches have on the device; called before each wait here.
    """

    model: Model
    new_cache: Callable[[], list[Any]]
    prefix: PrefixCache
    chunk: int
    counters: Counters
    clock: Callable[[], float]
    on_error: Callable[[Row, BaseException], None]
    settle: Callable[[], None]
    rows: list[Row] = field(default_factory=list[Row])

    def admit(self, row: Row) -> None:
        """Take a row: from the cache, from a prompt that is being prefilled now, or from nothing."""
        self._start(row)
        self.rows.append(row)

    def run(self) -> None:
        """Prefill at most `chunk` tokens, in one chunk or several short ones."""
        ready = [row for row in self.rows if row.leader is None and not row.prefilled]
        if not ready:
            return
        plan = plan_chunks([Prefilling(_chunks(row), row.waited_steps) for row in ready], self.chunk, self.chunk)
        for row in ready:
            row.waited_steps += 1
        for row in [ready[index] for index in plan]:
            row.waited_steps = 0
            if row in self.rows:
                self._run_chunk(row)

    def take_prefilled(self) -> list[Row]:
        """Remove and return the rows that can decode."""
        done = [row for row in self.rows if row.prefilled]
        if done:
            self.rows = [row for row in self.rows if not row.prefilled]
        return done

    def remove(self, row: Row) -> None:
        """Let a row go; those that waited for it go on from what it stored."""
        self.rows.remove(row)
        for other in [other for other in self.rows if other.leader is row]:
            # One of them becomes the leader of the rest.
            self._start_again(other)

    def nbytes(self) -> int:
        """Bytes of KV here."""
        return sum(row_caches.nbytes(row.caches) for row in self.rows)

    def _run_chunk(self, row: Row) -> None:
        end = next_end(row.chunk_ends, row.covered)
        assert row.caches is not None
        self.settle()
        try:
            prefill(self.model, row.caches, row.feed[row.covered : end])
        except FOREIGN as error:  # a prompt has its own caches, so its failure is its own
            drain()
            row.caches, row.covered = None, 0
            self.remove(row)
            self.on_error(row, error)
            return
        self.counters.prefilled_tokens += end - row.covered
        row.covered = end
        self._report(row)
        self._publish(row)

    def _report(self, row: Row) -> None:
        now = self.clock()
        if now - max(row.admitted_at, row.reported_at) >= REPORT_SECONDS:
            row.reported_at = now
            facts = {"request_id": row.request.request_id, "done": row.covered, "of": len(row.feed)}
            log.info(logline("prefill", **facts))

    def _publish(self, row: Row) -> None:
        """Store the prefill so far where somebody can use it: the followers now, anybody at the prompt's end."""
        followers = [other for other in self.rows if other.leader is row]
        served = [other for other in followers if row.covered >= self._sharable(other, row)]
        if row.stores and (served or row.prefilled or row.covered in row.snapshot_ends):
            self._insert(row)
        for other in served:
            self._start_again(other)

    def _start_again(self, row: Row) -> None:
        """As `_start`, for a row that is here already: its failure is its own, not that of the row it waited for."""
        try:
            self._start(row)
        except FOREIGN as error:
            self.rows.remove(row)
            self.on_error(row, error)

    def _start(self, row: Row) -> None:
        """Let a row wait for another's prefill where that pays, else take what there is."""
        row.leader = None
        leader = self._leader_for(row)
        if leader is not None and self._sharable(row, leader) > leader.covered:
            row.leader = leader
            self.counters.shared_waits += 1
            return
        if leader is not None and not self.prefix.snapshots:
            # It is past what both share and has stored nothing yet: it would at its prompt's end.
            self._insert(leader)
        self._restore(row)

    def _insert(self, row: Row) -> None:
        assert row.caches is not None
        self.settle()
        self.prefix.insert(row.feed[: row.covered], row.caches)

    def _leader_for(self, row: Row) -> Row | None:
        """The running prefill that has the longest part of this prompt, if that is worth more than the cache's."""
        running = [r for r in self.rows if r.leader is None and r.stores and r is not row]
        if not running or not self.prefix.enabled:
            return None
        best = max(running, key=lambda r: self._sharable(row, r))
        shared = self._sharable(row, best)
        return best if shared >= self.prefix.match(row.feed) + SHARE_AT_LEAST else None

    def _sharable(self, row: Row, leader: Row) -> int:
        """Tokens that `row` can take from `leader`'s prefill once that is far enough."""
        usable = min(common_prefix(row.feed, leader.feed), len(row.feed) - 1, len(leader.feed) - 1)
        if not self.prefix.snapshots:
            return usable
        return max((end for end in leader.chunk_ends if end <= usable), default=0)

    def _restore(self, row: Row) -> None:
        self.settle()
        reused = self.prefix.fetch(row.feed)
        row.caches = reused.caches or self.new_cache()
        row.covered = reused.length
        if not row.preemptions:
            row.cached_tokens, row.cache_reason = reused.length, reused.reason


def common_prefix(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Length of the common prefix of two token arrays."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def _chunks(row: Row) -> tuple[int, ...]:
    ends = [row.covered, *(end for end in row.chunk_ends if end > row.covered)]
    return tuple(b - a for a, b in pairwise(ends))
