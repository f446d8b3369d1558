"""The prompts on their way into the batch: whose slice of layers runs next, and who waits for whose prefix."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.engine.batching.chunk import Chunk, Model
from backend.engine.batching.pace import Pace
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.reused import Reused
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import Prefilling, most_urgent, next_end, waited_after
from backend.engine.kv import row_caches
from backend.engine.loading.failures import FOREIGN
from backend.engine.loading.progress import Rate
from backend.engine.picture import Counters
from backend.engine.quantized.conversion import to_codes
from backend.engine.quantized.kv_format import KVFormat
from backend.engine.waits import drain, wait
from mlx_cache.tree import common_prefix

# Waiting for another row's prefill pays once it saves at least this many tokens.
SHARE_AT_LEAST = 64
# A disk that has not answered by then may never: the prompt is prefilled instead.
READ_SECONDS = 10.0
# Chunks that wait in the middle, each with what its layers have computed, which no budget knows.
MOST_BEGUN = 4

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Prefills:
    """Engine thread only. Invariant: a row has caches and runs, or waits: for its leader in `rows`, or for a disk.

    Args:
        settle: Waits for all that is on the device, each under the guard of its owner; called before each wait here.
        meanwhile: What can be done while a slice runs.
        distrust: Throws away what others have on the device, for it may be theirs that failed.
        report_s: From one log line on a long prompt to the next.
        kv: Where rows come to hold codes in the middle of their prompt, how; else None.

    Attributes:
        running: The row whose slice is on the device.
        ran: Tokens that ran in this step, a part of a chunk by its layers.
    """

    model: Model
    new_cache: Callable[[], list[Any]]
    prefix: PrefixCache
    chunk: int
    pace: Pace
    counters: Counters
    clock: Callable[[], float]
    on_error: Callable[[Row, BaseException], None]
    settle: Callable[[], None]
    meanwhile: Callable[[], None]
    distrust: Callable[[], None]
    report_s: float = 5.0
    kv: KVFormat | None = None
    rows: list[Row] = field(default_factory=list[Row])
    running: Row | None = None
    ran: float = 0.0

    def admit(self, row: Row) -> None:
        """Take a row: from the cache, from a prompt that is being prefilled now, or from nothing."""
        self._start(row)
        self.rows.append(row)

    def run(self, *, streams: bool) -> None:
        """Prefill one slice or more, as long as those that stream, or may arrive, can wait; about a chunk at most."""
        self._take_read()
        spent, self.ran = 0.0, 0.0
        while self.ran < self.chunk and (row := self._next()) is not None:
            bound = self.pace.bound(streams=streams or any(other.prefilled for other in self.rows))
            layers = self._layers(row, bound - spent)
            if spent and not layers:
                return
            spent += self._run_slice(row, max(1, layers))
            if spent >= bound:
                return

    @property
    def busy(self) -> bool:
        """Whether any row can go on now."""
        return any(self._has_answer(row) if row.reading is not None else row.leader is None for row in self.rows)

    def next_due(self) -> float | None:
        """Seconds until a row has waited for its disk for long enough; None while none does."""
        waits = [row.reading_until - self.clock() for row in self.rows if row.reading is not None]
        return min(waits, default=None)

    def abandon(self) -> None:
        """Forget every row, without a look at what they have."""
        for row in self.rows:
            self._stop_reading(row)
        self.rows.clear()
        self.running = None

    def wait(self) -> None:
        """Wait for the slice on the device, if there is one; whether that was well shows in its row's chunk."""
        row, self.running = self.running, None
        if row is not None and row.chunk is not None:
            try:
                row.chunk.wait()
            except FOREIGN as error:
                self._lose(row, error)

    def restart(self) -> None:
        """It may have been the slice on the device that failed: its prompt begins anew."""
        row, self.running = self.running, None
        if row is not None:
            row.caches, row.chunk, row.covered = None, None, 0
            self._start_again(row)

    def take_prefilled(self) -> list[Row]:
        """Remove and return the rows that can decode."""
        done = [row for row in self.rows if row.prefilled]
        if done:
            self.rows = [row for row in self.rows if not row.prefilled]
            # One that began anew, and found all of its prompt stored, has published nothing.
            self._release(done)
        return done

    def remove(self, row: Row) -> None:
        """Let a row go; those that waited for it go on from what it stored."""
        self._stop_reading(row)
        self.rows.remove(row)
        self._release([row])

    def _release(self, leaders: list[Row]) -> None:
        gone = set(map(id, leaders))
        for other in [other for other in self.rows if id(other.leader) in gone]:
            # One of them becomes the leader of the rest.
            self._start_again(other)

    def nbytes(self) -> int:
        """Bytes of KV here."""
        return sum(row_caches.nbytes(row.caches) for row in self.rows)

    def _next(self) -> Row | None:
        ready = [row for row in self.rows if row.caches is not None and not row.prefilled]
        begun = [row for row in ready if row.chunk is not None]
        if len(begun) >= MOST_BEGUN:
            ready = begun
        return ready[most_urgent([Prefilling(_remaining(row), row.waited) for row in ready])] if ready else None

    def _layers(self, row: Row, seconds: float) -> int:
        """How many layers of the row's chunk fit `seconds`."""
        assert row.caches is not None
        tokens = next_end(row.chunk_ends, row.covered) - row.covered
        left = len(row.caches) - (row.chunk.computed if row.chunk is not None else 0)
        return self.pace.layers(tokens, seconds, left=left)

    def _run_slice(self, row: Row, layers: int) -> float:
        """Run the next layers of the row's chunk; the seconds that they took."""
        if row.chunk is None and not self._begin(row):
            return 0.0
        chunk = row.chunk
        assert chunk is not None
        # MLX lets only so much be under way: putting may take most of the time.
        before, started = chunk.computed, self.clock()
        try:
            chunk.put(layers)
        except FOREIGN as error:
            self.distrust()
            self._lose(row, error)
            return 0.0
        took = self.clock() - started
        self.running = row
        # What it waits for is the streams' own step, which is no part of this slice.
        self.meanwhile()
        started = self.clock()
        self.settle()
        took += self.clock() - started
        if row.chunk is chunk:  # neither failed nor restarted
            self._age(row, chunk, chunk.computed - before)
            # The first layer's cache is there before that layer has computed anything else.
            if chunk.computed > 1:
                self.pace.took(chunk.tokens, chunk.computed - max(1, before), took)
            if chunk.done:
                self._complete(row)
        return took

    def _begin(self, row: Row) -> bool:
        """Build the graph of the row's next chunk; whether that went well."""
        assert row.caches is not None
        # Before: a model may wait for something in the middle of its pass.
        self.meanwhile()
        self.settle()
        tokens = row.feed[row.covered : next_end(row.chunk_ends, row.covered)]
        try:
            row.chunk = Chunk(
                self.model, row.caches, tokens, cuttable=self.prefix.enabled and not self.prefix.snapshots
            )
        except FOREIGN as error:
            self._lose(row, error)
        return row.chunk is not None

    def _lose(self, row: Row, error: BaseException) -> None:
        """A prompt has its own caches, so its failure is its own; nothing of them is stored."""
        drain()
        row.caches, row.chunk, row.covered = None, None, 0
        self.on_error(row, error)
        self.remove(row)

    def _age(self, row: Row, chunk: Chunk, layers: int) -> None:
        ran = chunk.tokens * layers / chunk.layers
        self.ran += ran
        for other in self.rows:
            other.waited += ran
        left = ran + chunk.tokens * (chunk.layers - chunk.computed) / chunk.layers
        row.waited = waited_after(row.waited - ran, ran, left)

    def _complete(self, row: Row) -> None:
        assert row.chunk is not None
        self.counters.prefilled_tokens += row.chunk.tokens
        row.covered += row.chunk.tokens
        row.chunk = None
        if self.kv is not None and row.covered == self.kv.start and not self._to_codes(row, self.kv):
            return
        self._report(row)
        self._publish(row)

    def _to_codes(self, row: Row, kv: KVFormat) -> bool:
        """The row has come to the length from which on it holds codes; whether that went well."""
        assert row.caches is not None
        try:
            row.caches = to_codes(row.caches, kv)
            wait([cache.state for cache in row.caches])
        except FOREIGN as error:
            self._lose(row, error)
            return False
        return True

    def _report(self, row: Row) -> None:
        now, before = self.clock(), max(row.admitted_at, row.reported_at)
        if now - before < self.report_s:
            return
        rate = Rate(before, max(row.restored, row.reported_covered))
        rate.saw(now, row.covered)
        row.reported_at, row.reported_covered = now, row.covered
        facts = {"request_id": row.request.request_id, "done": row.covered, "of": len(row.feed)}
        log.info(logline("prefill", **facts, **rate.figures(len(row.feed), "tokens")))

    def _publish(self, row: Row) -> None:
        """Store the prefill so far where somebody can use it: the followers now, anybody at the prompt's end."""
        followers = [other for other in self.rows if other.leader is row]
        served = [other for other in followers if row.covered >= self._sharable(other, row)]
        if row.stores and (served or row.prefilled or row.covered in row.snapshot_ends):
            self._insert(row)
        for other in served:
            self._start_again(other)

    def _start_again(self, row: Row) -> None:
        """As `_start`, for a row that is here already."""
        self._guarded(row, self._start)

    def _guarded(self, row: Row, begin: Callable[[Row], None]) -> None:
        """A row's failure to begin is its own, not that of the row it waited for."""
        try:
            begin(row)
        except FOREIGN as error:
            self.on_error(row, error)
            self.remove(row)

    def _start(self, row: Row) -> None:
        """Let a row wait for another's prefill where that pays, else take what there is."""
        row.leader = None
        self._stop_reading(row)
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
        self.settle()
        caches = row.proven
        if caches is not None and not self.prefix.erased_since(row.epoch, row.request.tenant):
            tokens, request = row.feed[: row.covered], row.request
            self.prefix.insert(tokens, caches, request.tenant, restored=row.restored)
            # Its answer may never be stored: the prompt is to go with its conversation all the same.
            if request.conversation_id and self.prefix.keeps:
                self.prefix.turn(request.conversation_id, tokens, request.tenant, now=self.clock())

    def _leader_for(self, row: Row) -> Row | None:
        """The running prefill that has the longest part of this prompt, if that is worth more than the cache's."""
        if not self.prefix.keeps or (self.prefix.lossy and row.looked_up):
            return None
        tenant = row.request.tenant
        running = [
            r for r in self.rows if r.leader is None and r.stores and r is not row and r.request.tenant == tenant
        ]
        if not running:
            return None
        best = max(running, key=lambda r: self._sharable(row, r))
        shared = self._sharable(row, best)
        return best if shared >= self.prefix.match(row.feed, tenant) + SHARE_AT_LEAST else None

    def _sharable(self, row: Row, leader: Row) -> int:
        """Tokens that `row` can take from `leader`'s prefill once that is far enough."""
        usable = min(common_prefix(row.feed, leader.feed), len(row.feed) - 1, len(leader.feed) - 1)
        if not self.prefix.snapshots:
            return usable
        return max((end for end in leader.chunk_ends if end <= usable), default=0)

    def _restore(self, row: Row) -> None:
        """From a disk, if that has more than memory, else from memory."""
        tenant = row.request.tenant
        if self.prefix.has_disk:
            known = self.prefix.match(self._restorable(row), tenant)
            row.reading = self.prefix.read(self._restorable(row), tenant, self.new_cache(), beyond=known)
        if row.reading is None:
            self._restore_from_memory(row)
        else:
            row.reading_until = self.clock() + READ_SECONDS

    def _take_read(self) -> None:
        """Go on with the rows whose disk has answered, or took too long."""
        for row in [row for row in self.rows if row.reading is not None and self._has_answer(row)]:
            reused = self._stop_reading(row)
            stale = self.prefix.erased_since(row.epoch, row.request.tenant)
            if reused is None or reused.caches is None or stale:
                self._guarded(row, self._restore_from_memory)
                continue
            self._guarded(row, partial(self._go_on_with, reused=reused))

    def _go_on_with(self, row: Row, reused: Reused) -> None:
        row.caches = self.prefix.took(row.feed, reused, row.request.tenant, now=self.clock(), again=row.looked_up)
        row.covered = row.restored = reused.length
        self._note_reuse(row, reused)
        self._publish(row)

    def _has_answer(self, row: Row) -> bool:
        return row.reading is not None and (row.reading.done or self.clock() >= row.reading_until)

    def _stop_reading(self, row: Row) -> Reused | None:
        """What the disk gave, if it has; it need not go on."""
        reading, row.reading = row.reading, None
        if reading is None:
            return None
        if not reading.done:
            self.counters.disk_waits_ended += 1
        reading.cancel()
        return reading.result

    def _restore_from_memory(self, row: Row) -> None:
        self.settle()
        request = row.request
        # What only makes a prefix is no hit of one.
        counted = not request.prefill_only or row.submit.work is not None
        reused = self.prefix.fetch(
            self._restorable(row), request.tenant, now=self.clock(), counted=counted, again=row.looked_up
        )
        row.caches = reused.caches or self.new_cache()
        row.covered = row.restored = reused.length
        self._note_reuse(row, reused)

    def _restorable(self, row: Row) -> NDArray[np.int32]:
        """What may be restored: of codes, a row that comes back goes on with those that it began with."""
        return row.feed[: row.restored + 1] if self.prefix.lossy and row.looked_up else row.feed

    @staticmethod
    def _note_reuse(row: Row, reused: Reused) -> None:
        if not row.looked_up:
            row.cached_tokens, row.cache_reason, row.looked_up = reused.length, reused.reason, True


def _remaining(row: Row) -> float:
    chunk = row.chunk
    computed = chunk.tokens * chunk.computed / chunk.layers if chunk is not None else 0.0
    return len(row.feed) - 1 - row.covered - computed
