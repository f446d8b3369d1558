"""The rows that decode: they join, get a token a step, leave; and what becomes of them when their batch is lost."""

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from backend.core.errors import Overloaded
from backend.core.events import FinishReason, Piece
from backend.core.logline import logline
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.emitted import Emitted
from backend.engine.batching.emitting import Emitter, Then
from backend.engine.batching.finishing import Finisher, internal_fault
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.row import Row
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.batching.storing import Storing
from backend.engine.channel import Outbox
from backend.engine.loading.failures import FOREIGN
from backend.engine.picture import Counters
from backend.engine.quantized.conversion import to_codes
from backend.engine.quantized.kv_format import KVFormat
from backend.engine.waits import drain, wait

# Which groups are alike changes only as rows leave; what it costs to look grows with the square of the groups.
MERGE_EVERY_STEPS = 64

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Decoding:
    """Engine thread only. Invariant: a row is in a group or, while it goes from one place to the next, in `moving`.

    Args:
        tell: Lets clients have what was posted, before work that they need not wait for.
        kv: How rows are held where they are quantised.
        requeue: Puts a row back at its place in the queue, to begin with what the prompt cache has of its tokens.
        pooled: Where rows go on that have tails to run over their prompt.
        speculating: How many tokens of a row a step looks at.
        spare: Bytes of the budget that no row is going to need.
    """

    groups: DecodeGroups
    prefills: Prefills
    storing: Storing
    emitter: Emitter
    finisher: Finisher
    outbox: Outbox
    counters: Counters
    tell: Callable[[], None]
    requeue: Callable[[Row], None]
    pooled: Pooled
    speculating: Speculating
    spare: Callable[[], int]
    clock: Callable[[], float]
    kv: KVFormat | None = None
    moving: list[Row] = field(default_factory=list[Row])

    def abandon(self) -> None:
        """Forget every row, without a look at what they have."""
        self.moving, self.storing.rows = [], []
        for group in list(self.groups.batches):
            self.groups.lose(group)

    def join(self) -> None:
        """Take over the rows whose prompt is prefilled."""
        self.moving = ready = self.prefills.take_prefilled()
        if not ready:
            return
        self.settle()
        now = self.clock()
        for row in [row for row in ready if row.request.prefill_only]:
            self._end_prefill_only(row, now)
        ready = [row for row in ready if not row.request.prefill_only]
        for row in ready:
            self._note_prefilled(row, now)
            self.speculating.begin(row)
        self._join_rows(ready)
        self.moving = []

    def _note_prefilled(self, row: Row, now: float) -> None:
        if row.decoding_at:
            return  # it has been here before
        row.decoding_at = now
        self.counters.cached_tokens += row.cached_tokens
        # Without a reason nobody is to know what the cache had.
        if row.cache_reason:
            self.counters.looked_up_tokens += len(row.submit.prompt.tokens)
            self.counters.cache_reasons[row.cache_reason.partition(" ")[0]] += 1

    def _end_prefill_only(self, row: Row, now: float) -> None:
        if row.submit.work is not None:
            self._note_prefilled(row, now)
            self.pooled.admit(row)
            return
        if self.storing.store_named(row):
            self.finisher.finish(row, FinishReason.STOP, Piece(), now)
        else:
            n = len(row.submit.prompt.tokens)
            self.finisher.fail(row, Overloaded(f"the prompt cache has no room to keep {n} tokens under a name"))
        row.caches = None

    def _join_rows(self, rows: Sequence[Row]) -> None:
        for row, error in self.groups.join(rows):
            row.caches = None
            self.finisher.fail(row, internal_fault("join", row, error))

    def step(self) -> None:
        """One token for every row, or what a pass over several gives."""
        started = self.clock()
        for group in list(self.groups.batches):
            self._advance(group)
            self._to_codes(group)
        self.counters.decode_steps += 1
        if self.counters.decode_steps % MERGE_EVERY_STEPS == 0:
            self._merge_groups()
        self.counters.decode_seconds += self.clock() - started

    def _let_model_guess(self, group: DecodeBatch) -> bool:
        """Have the draft model read or guess where that is expected to pay; whether the group is here yet."""
        turn = self.speculating.turn(group.rows, may_read=not self.prefills.busy)
        if turn is None:
            return True
        if group.ahead:
            self._emit(group, group.collect)
        # What fails from here on is the draft model's own.
        self.settle()
        if group not in self.groups.batches:
            return False
        if self.outbox:
            self.tell()
        self.speculating.guess(group.rows, turn, spare=self.spare)
        return True

    def _advance(self, group: DecodeBatch) -> None:
        if not self._let_model_guess(group):
            return
        plan = self.speculating.plan(group.rows, spare=self.spare)
        if plan is not None and group.ahead:
            # What is drawn already comes before all that may be guessed.
            self._emit(group, group.collect)
            if group not in self.groups.batches:
                return
            plan = self.speculating.plan(group.rows, spare=self.spare)
        if plan is not None:
            self._verify(group, plan)
            return
        started, before = self.clock(), self.counters.generated_tokens
        rows = len(group)
        self._emit(group, group.step)
        if self.counters.generated_tokens - before == rows:  # a step behind, or with an end, tells nothing of its cost
            self.speculating.stepped(rows, self.clock() - started)

    def _verify(self, group: DecodeBatch, plan: Plan) -> None:
        """Look at what the rows propose in one pass, and hand out what is drawn from it."""
        started = self.clock()
        rows, ended = list(group.rows), list[Row]()
        try:
            verification = group.verify([proposal.tokens if proposal else () for proposal in plan])
            while emitted := verification.next():
                gone = self._give(emitted)
                verification.stop(gone)
                ended += gone
            verification.close()
            group.settle()
        except FOREIGN as error:
            self._lose_batch(group, rows, error)
            return
        self.speculating.verified(rows, plan, verification, self.clock() - started)
        self._let_go(ended)

    def _to_codes(self, group: DecodeBatch) -> None:
        """Rows that have come to the length from which on they hold codes go on among those that do."""
        kv = self.kv
        if kv is None or not kv.start or all(row.covered != kv.start for row in group.rows):
            return
        self._emit(group, group.collect)
        self.settle()
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
            self.leave(rows)
            self._join_rows(rows)
        self.moving = []

    def _merge_groups(self) -> None:
        """Put a group's rows into another whose length they have come to share."""
        group = self.groups.plan_merge()
        if group is None:
            return
        self._emit(group, group.collect)
        self.settle()
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

    def hand_out(self) -> None:
        """Let clients have what has been drawn, while a prompt's slice runs or before it does."""
        ended = [row for group in list(self.groups.batches) for row in self._take_tokens(group, group.collect)]
        if self.outbox:
            self.tell()
        self._let_go(ended)

    def _emit(self, group: DecodeBatch, tokens: Callable[[], list[Emitted]]) -> None:
        """Hand out what a group emits; rows that have come to their end leave it."""
        self._let_go(self._take_tokens(group, tokens))

    def _let_go(self, ended: Sequence[Row]) -> None:
        """Keep what those leave that have finished, and drop them."""
        self.storing.add([row for row in ended if row.finished])
        self.storing.store_all()
        self.leave(ended)

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
        return self._give(emitted)

    def _give(self, emitted: Sequence[Emitted]) -> list[Row]:
        """Turn drawn tokens into what clients see; the rows that have come to their end."""
        now = self.clock()
        given = [(item.row, self.emitter.take(item, now)) for item in emitted]
        for row, then in given:
            row.finished = row.finished or then is Then.FINISHED
        return [row for row, then in given if then is not Then.GOES_ON]

    def leave(self, rows: Sequence[Row]) -> None:
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

    def settle(self) -> None:
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
            self.finisher.fail(row, fault)
        drain()
        self.restart_in_flight()
        self.prefills.restart()
        mx.clear_cache()
        # An exception inside a compiled function can leave this thread's random state broken.
        mx.random.seed(secrets.randbits(32))

    def restart_in_flight(self) -> None:
        """It may have been their steps that failed: what they computed since their last wait is not to be trusted."""
        for group in [batch for batch in self.groups.batches if batch.in_flight]:
            self._restart_batch(group)

    def _restart_batch(self, group: DecodeBatch) -> None:
        self.moving = [*self.moving, *group.rows]
        self.groups.lose(group)
        for row in sorted(group.rows, key=lambda row: row.submit.accepted_at, reverse=True):
            row.sampling.drawn_ahead.clear()
            self.requeue(row)
            log.info(logline("restarted", request_id=row.request.request_id, tokens=len(row.feed)))
