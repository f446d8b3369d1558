"""A loaded model and the requests it serves: admit, prefill, decode, end."""

import gc
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from backend.config import FLUSH_SECONDS, ModelConfig
from backend.core.errors import DeadlineExceeded, Overloaded, RequestCancelled, WorkerError
from backend.core.freed_memory import give_back
from backend.engine.batching.admission import Admission
from backend.engine.batching.asleep import Asleep, without_weights
from backend.engine.batching.decoding import Decoding
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.room import Room
from backend.engine.batching.row import Row
from backend.engine.batching.speculating import Speculating
from backend.engine.batching.standing import Standing
from backend.engine.channel import AnswerStream
from backend.engine.inbox import Submit
from backend.engine.loading import LoadedModel
from backend.engine.picture import Counters, EnginePicture
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.waits import drain


# No repr: it would name fields that closing takes away, and the texts of every row.
@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Session:
    """Engine thread only.

    Invariant: a row is in exactly one of `admission.waiting`, `prefills`, `pooled` and `groups` while its client is
    owed an end, and after it only until what it leaves is stored; while it goes from one to the next it is in
    `decoding.moving`, so that whatever ends the thread finds it.

    Attributes:
        touched: A request has run since nothing of any was left.
        pooled_ran: The last step ran something pooled, so prompts are next.
    """

    loaded: LoadedModel
    config: ModelConfig
    generation: int
    prefix: PrefixCache
    speculating: Speculating
    budget: MemoryBudget
    counters: Counters
    clock: Callable[[], float]
    prefills: Prefills
    pooled: Pooled
    groups: DecodeGroups
    room: Room
    decoding: Decoding
    admission: Admission
    memory_facts: Mapping[str, str]
    restore_limits: Callable[[], None] = lambda: None
    touched: bool = False
    pooled_ran: bool = False

    @property
    def strict(self) -> bool:
        """Whether a request leaves nothing behind."""
        return self.admission.strict

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.groups) or self.prefills.busy or self.pooled.busy or self.admission.busy

    @property
    def max_rows(self) -> int:
        """Rows that may run together."""
        return self.admission.most_rows

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.decoding.emitter.eos_ids

    def submit(self, submit: Submit) -> None:
        """Take a request; it starts when there is room."""
        self.counters.requests += 1
        self.counters.prompt_tokens += len(submit.prompt.tokens) if submit.work is None else submit.work.total
        sampling = RowSampling(
            submit.request.sampling,
            prompt=submit.prompt.tokens,
            eos_ids=self.eos_ids,
            top_logprobs=submit.request.logprobs,
            constraint=submit.constraint,
        )
        standing = Standing.of(self.clock(), submit.request.priority)
        self.admission.add(Row(submit, sampling, submit.prompt.tokens, standing))

    def cancel(self, streams: Collection[AnswerStream]) -> None:
        """End these streams' requests, wherever they are, and keep the KV that is proven."""
        gone = {id(stream) for stream in streams}
        self._end_where(lambda row: id(row.stream) in gone, RequestCancelled)
        self.tidy()

    def abort(self, error: Callable[[], WorkerError]) -> None:
        """End every request. The ends come before anything that could fail; nothing is stored."""
        for row in (*self.admission.waiting, *self.decoding.moving, *self.room.rows):
            self._fail(row, error())
        self.admission.waiting.clear()
        self.prefills.abandon()
        self.pooled.abandon()
        self.decoding.abandon()

    def step(self) -> None:
        """One round: end what is overdue, admit, prefill for a while, then one token for every row."""
        self.tidy()
        self.touched |= self.admission.admit()
        running = len(self.room.rows)
        self._run_prompts()
        self.decoding.join()
        if self.groups:
            self.decoding.step()
        self._relieve()
        if len(self.room.rows) < running:
            self.admission.blocked = False
        self.tidy()

    def _run_prompts(self) -> None:
        """Prompts, and what is pooled, take turns: no stream waits for more than a chunk between two of its tokens."""
        self.pooled_ran = self.pooled.busy and not (self.pooled_ran and self.prefills.busy)
        streams = bool(self.groups)
        if self.pooled_ran:
            # A prompt that has come meanwhile waits for its turn as a stream does.
            self.pooled.run(streams=streams or self.prefills.busy)
        else:
            self.prefills.run(streams=streams)

    def _end_overdue(self) -> None:
        now = self.clock()
        self._end_where(lambda r: r.request.deadline is not None and r.request.deadline <= now, DeadlineExceeded)

    def tidy(self) -> None:
        """End what is overdue, forget what has been idle for too long, and in strict what the last request has left."""
        self._end_overdue()
        self.prefix.rows_decode(bool(self.groups))
        self.prefix.forget_idle(self.clock())
        self.speculating.retain(self.groups.rows)
        if self.strict and self.touched and not self.room.rows:
            self.touched = False
            gc.collect()
            mx.random.seed(secrets.randbits(32))
            mx.clear_cache()

    def next_due(self) -> float | None:
        """Seconds until `tidy` has something to do, or figures change, though no request comes; None for nothing."""
        now = self.clock()
        deadlines = [row.request.deadline for row in (*self.admission.waiting, *self.prefills.rows)]
        dues = [self.prefix.next_due(now), self.prefills.next_due(), *(d - now for d in deadlines if d is not None)]
        return min((due for due in dues if due is not None), default=None)

    def asleep(self) -> Asleep:
        """What another session goes on from once this one is closed but for its cache."""
        return Asleep(
            loaded=without_weights(self.loaded), prefix=self.prefix, counters=self.counters, budget=self.budget.total
        )

    def close(self, *, keeps_cache: bool = False) -> Mapping[str, float]:
        """Drop every MLX object, here on the thread that made them, and return their memory; the cache's last figures.

        Args:
            keeps_cache: All but those of the prompt cache, which somebody else holds.
        """
        self.prefills.abandon()
        self.pooled.abandon()
        drain()
        if not keeps_cache:
            self.prefix.close(FLUSH_SECONDS)
        figures = self.prefix.figures()
        del self.loaded, self.prefills, self.pooled, self.groups, self.room, self.decoding, self.admission
        del self.prefix, self.speculating
        gc.collect()
        self.restore_limits()
        mx.clear_cache()
        give_back()
        return figures

    def picture(self, now: float) -> EnginePicture:
        """A picture of the session for other threads."""
        return EnginePicture(
            at=now,
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            buffer_pool=mx.get_cache_memory(),
            weights=self.loaded.all_weight_bytes,
            live_kv=self.room.live(),
            cached_kv=self.prefix.nbytes,
            cached_draft_kv=self.prefix.draft_nbytes,
            budget=self.budget.total,
            waiting=len(self.admission.waiting),
            prefilling=len(self.prefills.rows) + len(self.pooled.rows),
            decoding=sum(not row.stream.ended for row in self.groups.rows),
            storing=sum(row.stream.ended for row in self.room.rows),
            counters=self.counters.copy(),
            disk_state=self.prefix.disk_state,
            cache=self.prefix.figures(),
            speculation=self.speculating.figures(),
            draft_fault=self.speculating.fault,
            tells=self.prefix.tells,
        )

    def _relieve(self) -> None:
        """Keep rows, copies and cache within the budget: the cache gives way, a draft model, the row that came last."""
        while not self.room.relieved() and (rows := self.room.rows):
            if self.speculating.let_go():
                continue
            if len(rows) == 1:
                refusal = self.budget.refusal(rows[0].covered)
                self._end_where(rows.__contains__, partial(Overloaded, refusal))
                return
            self.admission.preempt(max(rows, key=lambda row: row.standing.place))

    def _fail(self, row: Row, error: WorkerError) -> None:
        self.decoding.finisher.fail(row, error)

    def _end_where(self, which: Callable[[Row], bool], error: Callable[[], WorkerError]) -> None:
        waiting = [row for row in self.admission.waiting if which(row)]
        prefilling = [row for row in self.prefills.rows if which(row)]
        decoding = [row for row in self.groups.rows if which(row)]
        pooled = [row for row in self.pooled.rows if which(row)]
        for row in (*waiting, *prefilling, *pooled, *decoding):
            self._fail(row, error())
            self.admission.blocked = False
        self.decoding.storing.rows = [*prefilling, *decoding]
        self.decoding.storing.store_all()
        for row in waiting:
            self.admission.waiting.remove(row)
        for row in pooled:
            self.pooled.remove(row)
        for row in prefilling:
            if row in self.prefills.rows:  # else it waited for the one before, and failed on its own
                self.prefills.remove(row)
        self.decoding.leave(decoding)
