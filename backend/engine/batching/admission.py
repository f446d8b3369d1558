"""Who gets a row, and who goes back to the queue for another."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.core.errors import Overloaded
from backend.core.logline import logline
from backend.engine.batching.decoding import Decoding
from backend.engine.batching.finishing import Finisher, internal_fault
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.queue import Queue
from backend.engine.batching.room import Room
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import chunk_ends, snapshot_ends
from backend.engine.loading.failures import FOREIGN
from backend.engine.picture import Counters
from backend.engine.quantized.kv_format import KVFormat
from backend.engine.work import Embed

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Admission:
    """Engine thread only. Invariant: a row on its way from or to `waiting` is in `decoding.moving`.

    Args:
        chunk: Tokens of a prefill chunk at most.
        scores: Of a prefill chunk, the most query tokens times key tokens; None where nothing bounds them.
        kv: How rows are held where they are quantised.
        most_rows: Rows that may run together.
        strict: A request leaves nothing behind.

    Attributes:
        blocked: No waiting request can be admitted before one that runs ends.
    """

    prefix: PrefixCache
    prefills: Prefills
    pooled: Pooled
    groups: DecodeGroups
    room: Room
    decoding: Decoding
    finisher: Finisher
    counters: Counters
    clock: Callable[[], float]
    chunk: int
    scores: int | None
    kv: KVFormat | None
    most_rows: int
    strict: bool
    waiting: Queue = field(default_factory=Queue)
    blocked: bool = False

    @property
    def busy(self) -> bool:
        """Whether `admit` would do anything."""
        return bool(self.waiting) and not (self.blocked and self.room.rows)

    def add(self, row: Row) -> None:
        """Take a new row; it starts when there is room."""
        row.feed = row.to_feed()
        self.waiting.add(row)
        self.blocked = False

    def admit(self) -> bool:
        """Start rows as long as there is room for the next; whether any has."""
        # Where only a disk is waited for, there is nothing to do until it answers.
        self.blocked = True
        admitted = False
        while self.waiting:
            row = self.waiting.first
            if self.room.has_place(row, self.most_rows):
                self._start(row)
                admitted = True
            # Under strict nothing may be kept of a row that leaves.
            elif not self.strict and self.room.leaving_for(row, self.most_rows):
                self._displace_for(row)
            elif self.room.rows:
                break
            else:
                self.waiting.remove(row)
                self.finisher.fail(row, Overloaded(self.room.budget.refusal(row.expects)))
        return admitted

    def _start(self, row: Row) -> None:
        self.decoding.moving = [self.waiting.take_first()]
        row.admitted_at = row.admitted_at or self.clock()
        # Texts leave nothing in a cache and take nothing from one.
        texts = isinstance(row.submit.work, Embed)
        if not texts:
            self._plan_prompt(row)
        self.room.make_for(row)
        try:
            (self.pooled if texts else self.prefills).admit(row)
        except FOREIGN as error:  # a model makes its caches itself
            self.finisher.fail(row, internal_fault("admission", row, error))
        self.decoding.moving = []

    def _plan_prompt(self, row: Row) -> None:
        """Where its chunks end, and what of it is kept."""
        row.last_token = int(row.feed[-1])
        row.epoch = self.prefix.epoch(row.request.tenant)
        row.snapshot_ends = self._snapshot_ends(row)
        starts = () if self.kv is None else (self.kv.start,)
        row.chunk_ends = chunk_ends(len(row.feed), self.chunk, (*row.snapshot_ends, *starts), scores=self.scores)

    def _snapshot_ends(self, row: Row) -> tuple[int, ...]:
        if not self.prefix.snapshots or self.strict:
            return ()
        return snapshot_ends(len(row.feed), row.submit.prompt.boundaries)

    def _displace_for(self, row: Row) -> None:
        # First, for a row that comes to its end by what is drawn makes room without another's leaving.
        self.decoding.hand_out()
        for other in self.room.leaving_for(row, self.most_rows):
            self.preempt(other, displaced_by=row)

    def preempt(self, row: Row, *, displaced_by: Row | None = None) -> None:
        """Have a row that runs go back to the queue, and keep what its KV proves."""
        # What is drawn goes out first: then a row's KV ends before its last token, where it can be taken up again.
        self.decoding.hand_out()
        self.decoding.settle()
        pooled = row in self.pooled.rows
        if not pooled and row not in self.prefills.rows and row not in self.groups.rows:
            return  # it has ended, or its batch was lost
        self.counters.preemptions += 1
        if displaced_by is not None:
            row.displaced += 1
            self.counters.priority_preemptions += 1
        if not pooled:  # its prompt is stored already, and what runs over it is not to be
            # Kept where the copy fits beside the row itself; else it is prefilled again.
            self.room.limit_cache(self.room.live())
            self.decoding.storing.store(row)
        self.decoding.moving = [*self.decoding.moving, row]
        if pooled:
            self.pooled.remove(row)
        elif row in self.prefills.rows:
            self.prefills.remove(row)
        else:
            self.decoding.leave([row])
        self.requeue(row)
        by = None if displaced_by is None else displaced_by.request.request_id
        log.info(logline("preempted", request_id=row.request.request_id, tokens=len(row.feed), displaced_by=by))

    def requeue(self, row: Row) -> None:
        """Put a row that is nowhere else back to its place, to begin with what the prompt cache has of its tokens."""
        if not row.stream.ended:
            row.preemptions += 1
            row.caches, row.chunk, row.leader = None, None, None
            row.feed = row.to_feed()
            row.covered = 0
            self.waiting.put_back(row)
            self.blocked = False
        self.decoding.moving = [other for other in self.decoding.moving if other is not row]
