"""A loaded model and the requests it serves: admit, prefill, decode, end."""

import gc
import logging
import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx

from backend.config import ModelConfig
from backend.core.errors import DeadlineExceeded, Overloaded, RequestCancelled, WorkerError
from backend.core.logline import logline
from backend.engine.batching.batch import DecodeBatch, Emitted
from backend.engine.batching.emitting import Emitter, Then
from backend.engine.batching.finishing import Finisher, internal_fault
from backend.engine.batching.group_cost import PaddingBounds
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.pace import Pace
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import chunk_ends
from backend.engine.channel import AnswerStream, Outbox
from backend.engine.inbox import Submit
from backend.engine.loading import LoadedModel
from backend.engine.loading.failures import FOREIGN
from backend.engine.picture import Counters, EnginePicture
from backend.engine.quantized.conversion import to_codes
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.waits import drain, wait

log = logging.getLogger(__name__)

# A state that cannot be cut by token is stored this often along a prompt.
SNAPSHOT_EVERY = 4096
# Which groups are alike changes only as rows leave; what it costs to look grows with the square of the groups.
MERGE_EVERY_STEPS = 64


@dataclass(slots=True, eq=False, kw_only=True)
class Session:
    """Engine thread only.

    Invariant: a row is in exactly one of `waiting`, `prefills` and `groups` while its client is owed an end, and after
    it only until what it leaves is stored; while it goes from one to the next it is in `moving`, so that whatever ends
    the thread finds it.

    Args:
        chunk: Tokens of a prefill chunk at most.
        tell: Lets clients have what was posted, before work that they need not wait for.
        scores: Of a prefill chunk, the most query tokens times key tokens; None where nothing bounds them.
    """

    loaded: LoadedModel
    config: ModelConfig
    generation: int
    prefix: PrefixCache
    new_batch: Callable[[], DecodeBatch]
    budget: MemoryBudget
    padding: PaddingBounds
    outbox: Outbox
    tell: Callable[[], None]
    chunk: int
    pace: Pace
    clock: Callable[[], float]
    scores: int | None = None
    memory_facts: Mapping[str, str] = field(default_factory=dict[str, str])
    restore_limits: Callable[[], None] = lambda: None
    waiting: deque[Row] = field(default_factory=deque[Row])
    moving: list[Row] = field(default_factory=list[Row])
    storing: list[Row] = field(default_factory=list[Row])
    counters: Counters = field(default_factory=Counters)
    finisher: Finisher = field(init=False)
    emitter: Emitter = field(init=False)
    prefills: Prefills = field(init=False)
    groups: DecodeGroups = field(init=False)

    def __post_init__(self) -> None:
        self.groups = self._new_groups()
        self.finisher = Finisher(self.outbox, self.counters)
        self.emitter = Emitter(lambda: self.loaded.eos_ids, self.finisher, self.outbox, self.counters)
        self.prefills = Prefills(
            model=self.loaded.model,
            new_cache=self.loaded.new_cache,
            prefix=self.prefix,
            chunk=self.chunk,
            pace=self.pace,
            counters=self.counters,
            clock=self.clock,
            on_error=lambda row, error: self._fail(row, internal_fault("prefill", row, error)),
            settle=self._settle,
            meanwhile=self._hand_out,
            distrust=self._restart_in_flight,
            kv=self.loaded.kv,
        )

    def _new_groups(self) -> DecodeGroups:
        kv = self.loaded.kv
        is_codes = kv.is_codes if kv is not None else lambda _covered: False
        return DecodeGroups(self.new_batch, self.budget, self.padding, spare=self._spare, is_codes=is_codes)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.prefills.rows or self.groups)

    @property
    def max_rows(self) -> int:
        """Rows that may run together."""
        return self.config.engine.max_rows if self.loaded.batchable else 1

    def submit(self, submit: Submit) -> None:
        """Take a request; it starts when there is room."""
        self.counters.requests += 1
        self.counters.prompt_tokens += len(submit.prompt.tokens)
        sampling = RowSampling(
            submit.request.sampling,
            prompt=submit.prompt.tokens,
            eos_ids=self.loaded.eos_ids,
            top_logprobs=submit.request.logprobs,
            constraint=submit.constraint,
        )
        self.waiting.append(Row(submit, sampling, submit.prompt.tokens))

    def cancel(self, streams: Collection[AnswerStream]) -> None:
        """End these streams' requests, wherever they are, and keep the KV that is proven."""
        gone = {id(stream) for stream in streams}
        self._end_where(lambda row: id(row.stream) in gone, RequestCancelled)

    def abort(self, error: Callable[[], WorkerError]) -> None:
        """End every request. The ends come before anything that could fail; nothing is stored."""
        for row in (*self.waiting, *self.moving, *self.prefills.rows, *self.groups.rows):
            self._fail(row, error())
        self.waiting.clear()
        self.moving, self.storing = [], []
        self.prefills.rows.clear()
        self.prefills.running = None
        self.groups = self._new_groups()

    def step(self) -> None:
        """One round: end what is overdue, admit, prefill for a while, then one token for every row."""
        now = self.clock()
        self._end_where(lambda r: r.request.deadline is not None and r.request.deadline <= now, DeadlineExceeded)
        self._admit()
        self.prefills.run(streams=bool(self.groups))
        self._join()
        if self.groups:
            self._decode()
        self._relieve()

    def close(self) -> None:
        """Drop every MLX object, here on the thread that made them, and return their memory."""
        self.prefills.rows.clear()
        drain()
        self.prefix.forget()
        del self.loaded, self.prefills, self.groups, self.prefix, self.new_batch
        gc.collect()
        self.restore_limits()
        mx.clear_cache()

    def picture(self, now: float) -> EnginePicture:
        """A picture of the session for other threads."""
        return EnginePicture(
            at=now,
            active_bytes=mx.get_active_memory(),
            buffer_pool=mx.get_cache_memory(),
            weights=self.loaded.weight_bytes,
            live_kv=self._live(),
            cached_kv=self.prefix.nbytes,
            budget=self.budget.total,
            waiting=len(self.waiting),
            prefilling=len(self.prefills.rows),
            decoding=sum(not row.stream.ended for row in self.groups.rows),
            storing=sum(row.stream.ended for row in (*self.groups.rows, *self.prefills.rows)),
            counters=replace(self.counters),
            cache=self.prefix.figures(),
        )

    # Admission and memory

    def _admit(self) -> None:
        while self.waiting and len(self.prefills.rows) + len(self.groups) < self.max_rows:
            row = self.waiting[0]
            if not self._has_room(row):
                if self.prefills.rows or self.groups:
                    return
                self.waiting.popleft()
                self._fail(row, Overloaded(self.budget.refusal(len(row.feed))))
                continue
            self.moving = [self.waiting.popleft()]
            row.admitted_at = row.admitted_at or self.clock()
            row.last_token = int(row.feed[-1])
            row.snapshot_ends = self._snapshot_ends(row)
            starts = () if self.loaded.kv is None else (self.loaded.kv.start,)
            row.chunk_ends = chunk_ends(len(row.feed), self.chunk, (*row.snapshot_ends, *starts), scores=self.scores)
            # The cache gives way before the row takes anything, this row's own prefix last.
            self._limit_cache(self._projected() + self.budget.projected(len(row.feed)), sparing=row)
            try:
                self.prefills.admit(row)
            except FOREIGN as error:  # a model makes its caches itself
                self._fail(row, internal_fault("admission", row, error))
            self.moving = []

    def _snapshot_ends(self, row: Row) -> tuple[int, ...]:
        if not self.prefix.snapshots:
            return ()
        return (*row.submit.prompt.boundaries, *range(SNAPSHOT_EVERY, len(row.feed), SNAPSHOT_EVERY))

    def _projected(self) -> int:
        """Bytes of KV that all rows need to run on: those that decode with their padding, prompts each for itself."""
        return self.groups.projected() + self.budget.apart(len(row.feed) for row in self.prefills.rows)

    def _spare(self) -> int:
        return self.budget.most - self._projected()

    def _live(self) -> int:
        return self.groups.nbytes() + self.prefills.nbytes()

    def _has_room(self, row: Row) -> bool:
        running = len(self.prefills.rows) + len(self.groups)
        return self.budget.admits(len(row.feed), beside=self._projected(), rows=running, returning=row.preemptions > 0)

    def _limit_cache(self, live: int, *, sparing: Row | None = None) -> None:
        room = self.budget.room_for_cache(live)
        if self.prefix.limit_to(room, sparing=None if sparing is None else sparing.feed):
            # What was evicted goes back to the system, not into MLX's pool of buffers for later.
            mx.clear_cache()

    def _relieve(self) -> None:
        """Keep live rows, copies and cache within the budget: the cache gives way, then the youngest row goes back.

        By what the rows are going to need, which is a block ahead of what they have: there is room when they grow.
        """
        while True:
            live = max(self._projected(), self._live())
            self._limit_cache(live)
            rows = [*self.groups.rows, *self.prefills.rows]
            if self.budget.fits(live) or not rows:
                return
            if len(rows) == 1:
                refusal = self.budget.refusal(rows[0].covered)
                self._end_where(rows.__contains__, partial(Overloaded, refusal))
                return
            self._preempt(max(rows, key=lambda row: row.submit.accepted_at))

    def _preempt(self, row: Row) -> None:
        self._settle()
        if row not in self.prefills.rows and row not in self.groups.rows:
            return  # its batch was lost
        self.counters.preemptions += 1
        # Kept where the copy fits beside the row itself; else it is prefilled again.
        self._limit_cache(self._live())
        self._store(row)
        self.moving = [*self.moving, row]
        if row in self.prefills.rows:
            self.prefills.remove(row)
        else:
            self._leave([row])
        self._requeue(row)
        log.info(logline("preempted", request_id=row.request.request_id, tokens=len(row.feed)))

    def _requeue(self, row: Row) -> None:
        """Back to the head of the queue, to begin with what the prompt cache has of its tokens."""
        if not row.stream.ended:
            row.preemptions += 1
            row.caches, row.chunk, row.leader = None, None, None
            row.feed = row.tokens()
            row.covered = 0
            self.waiting.appendleft(row)
        self.moving = [other for other in self.moving if other is not row]

    # Decode

    def _join(self) -> None:
        self.moving = ready = self.prefills.take_prefilled()
        if not ready:
            return
        self._settle()
        now = self.clock()
        for row in ready:
            row.decoding_at = row.decoding_at or now
            self.counters.cached_tokens += row.cached_tokens if not row.preemptions else 0
        self._join_rows(ready)
        self.moving = []

    def _join_rows(self, rows: Sequence[Row]) -> None:
        for row, error in self.groups.join(rows):
            row.caches = None
            self._fail(row, internal_fault("join", row, error))

    def _decode(self) -> None:
        started = self.clock()
        for group in list(self.groups.batches):
            self._emit(group, group.step)
            self._to_codes(group)
        self.counters.decode_steps += 1
        if self.counters.decode_steps % MERGE_EVERY_STEPS == 0:
            self._merge_groups()
        self.counters.decode_seconds += self.clock() - started

    def _to_codes(self, group: DecodeBatch) -> None:
        """Rows that have come to the length from which on they hold codes go on among those that do."""
        kv = self.loaded.kv
        if kv is None or not kv.start or all(row.covered != kv.start for row in group.rows):
            return
        self._emit(group, group.collect)
        self._settle()
        if group not in self.groups.batches:
            return  # its last row has ended, or it was lost
        self.moving = rows = [row for row in group.rows if row.covered == kv.start]
        try:
            for row in rows:
                row.caches = to_codes(group.view(row), kv)
            wait([[cache.state for cache in row.caches or ()] for row in rows])
        except FOREIGN as error:
            self._lose_batch(group, list(group.rows), error)
        else:
            self._leave(rows)
            self._join_rows(rows)
        self.moving = []

    def _merge_groups(self) -> None:
        """Put a group's rows into another whose length they have come to share."""
        group = self.groups.plan_merge()
        if group is None:
            return
        self._emit(group, group.collect)
        self._settle()
        if group not in self.groups.batches:
            return  # its last row has ended, or it was lost
        self.moving = list(group.rows)
        try:
            rows = self.groups.dissolve(group)
        except FOREIGN as error:
            self._lose_batch(group, self.moving, error)
        else:
            self._join_rows(rows)
            log.info(logline("groups_merged", rows=len(rows), groups=len(self.groups.batches)))
        self.moving = []

    def _hand_out(self) -> None:
        """Let clients have what has been drawn, while a prompt's slice runs or before it does."""
        ended = [row for group in list(self.groups.batches) for row in self._take_tokens(group, group.collect)]
        if self.outbox:
            self.tell()
        self._store_all()
        self._leave(ended)

    def _emit(self, group: DecodeBatch, tokens: Callable[[], list[Emitted]]) -> None:
        """Hand out what a group emits; rows that have come to their end leave it."""
        ended = self._take_tokens(group, tokens)
        self._store_all()
        self._leave(ended)

    def _take_tokens(self, group: DecodeBatch, tokens: Callable[[], list[Emitted]]) -> list[Row]:
        """Turn what a batch gives into what clients see; the rows that have come to their end."""
        if group not in self.groups.batches:  # restarted since, for another was lost
            return []
        rows = list(group.rows)
        try:
            emitted = tokens()
        except FOREIGN as error:  # keys and KV may be out of step: the batch is lost
            self._lose_batch(group, rows, error)
            return []
        now = self.clock()
        given = [(item.row, self.emitter.take(item, now)) for item in emitted]
        self.storing.extend(row for row, then in given if then is Then.FINISHED)
        return [row for row, then in given if then is not Then.GOES_ON]

    # Ends

    def _fail(self, row: Row, error: WorkerError) -> None:
        self.finisher.fail(row, error)

    def _store_all(self) -> None:
        """Store what the rows of `storing` leave; their clients go on meanwhile, and so do those of their batch."""
        self.storing = [row for row in self.storing if self._leaves_kv(row)]
        if self.storing:
            self.tell()
            self._limit_cache(self._live())
        for row in self.storing:
            self._store(row)
        self.storing = []

    def _leaves_kv(self, row: Row) -> bool:
        wanted = row.stores and (row.request.cache_answer or not row.generated)
        return self.prefix.enabled and wanted and row.covered > 0

    def _store(self, row: Row) -> None:
        """Keep what the row's KV proves: its tokens up to the last one fed. A fault here costs a hit, no request."""
        if not self._leaves_kv(row):
            return
        self._settle()
        if row.caches is None and row not in self.groups.rows:
            return  # its batch was lost
        try:
            caches = row.proven if row.caches is not None else self.groups.view(row)
        except FOREIGN as error:
            internal_fault("store", row, error)
            return
        if caches is not None:
            self.prefix.insert(row.tokens()[: row.covered], caches, restored=row.restored)

    def _end_where(self, which: Callable[[Row], bool], error: Callable[[], WorkerError]) -> None:
        waiting = [row for row in self.waiting if which(row)]
        prefilling = [row for row in self.prefills.rows if which(row)]
        decoding = [row for row in self.groups.rows if which(row)]
        for row in (*waiting, *prefilling, *decoding):
            self._fail(row, error())
        self.storing = [*prefilling, *decoding]
        self._store_all()
        for row in waiting:
            self.waiting.remove(row)
        for row in prefilling:
            if row in self.prefills.rows:  # else it waited for the one before, and failed on its own
                self.prefills.remove(row)
        self._leave(decoding)

    def _leave(self, rows: Sequence[Row]) -> None:
        """Drop rows from their batches; one that fails at it is lost, and with it the rows that stayed."""
        for group in list(self.groups.batches):
            staying = [row for row in group.rows if row not in rows]
            if len(staying) == len(group) or group not in self.groups.batches:
                continue
            try:
                if not staying:
                    if self.outbox and group.in_flight:
                        self.tell()
                    group.settle()  # or the next wait, of somebody else, would be told of its last step
                group.leave(rows)
            except FOREIGN as error:  # some layers have dropped them, some have not
                self._lose_batch(group, staying, error)
        self.groups.drop_empty()

    def _settle(self) -> None:
        """Wait for all that is on the device, each under the guard of its owner, before somebody else waits."""
        for group in list(self.groups.batches):
            if group not in self.groups.batches:  # another was lost while this one ran
                continue
            try:
                group.settle()
            except FOREIGN as error:
                self._lose_batch(group, group.rows, error)
        self.prefills.wait()

    def _lose_batch(self, group: DecodeBatch, rows: list[Row], error: BaseException) -> None:
        """A failed step leaves keys and KV out of step: nothing of the batch is used again."""
        fault = internal_fault("step", None, error)
        self.groups.lose(group)
        for row in rows:
            row.caches = None
            self._fail(row, fault)
        drain()
        self._restart_in_flight()
        self.prefills.restart()
        mx.clear_cache()
        # An exception inside a compiled function can leave this thread's random state broken.
        mx.random.seed(secrets.randbits(32))

    def _restart_in_flight(self) -> None:
        """It may have been their steps that failed: what they computed since their last wait is not to be trusted."""
        for group in [batch for batch in self.groups.batches if batch.in_flight]:
            self._restart_batch(group)

    def _restart_batch(self, group: DecodeBatch) -> None:
        self.moving = [*self.moving, *group.rows]
        self.groups.lose(group)
        for row in sorted(group.rows, key=lambda row: row.submit.accepted_at, reverse=True):
            row.sampling.drawn_ahead.clear()
            self._requeue(row)
            log.info(logline("restarted", request_id=row.request.request_id, tokens=len(row.feed)))
