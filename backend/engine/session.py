"""A loaded model and the requests it serves: admit, prefill, decode, end."""

import gc
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import mlx.core as mx

from backend.config import ModelConfig
from backend.core.errors import (
    DeadlineExceeded,
    InternalFault,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    WorkerError,
)
from backend.core.events import Delta, Failed, Finished, FinishReason, Piece
from backend.engine.batch import DecodeBatch, Emitted
from backend.engine.channel import AnswerStream, Outbox
from backend.engine.counters import Counters
from backend.engine.inbox import Submit
from backend.engine.loading import LoadedModel
from backend.engine.logprobs import token_logprob
from backend.engine.memory import MemoryBudget
from backend.engine.prefills import Prefills
from backend.engine.prefix import PrefixCache
from backend.engine.rows import Row
from backend.engine.sampling.rows import RowSampling
from backend.engine.sampling.sampled import NOT_FINITE
from backend.engine.scheduler import chunk_ends
from backend.engine.snapshot import EngineSnapshot

log = logging.getLogger(__name__)

# A state that cannot be cut by token is stored this often along a prompt.
SNAPSHOT_EVERY = 4096


@dataclass(slots=True, eq=False, kw_only=True)
class Session:
    """Engine thread only.

    Invariant: a row is in exactly one of `waiting`, `prefills` and `batch` exactly while its client is owed an end.
    """

    loaded: LoadedModel
    config: ModelConfig
    generation: int
    prefix: PrefixCache
    new_batch: Callable[[], DecodeBatch]
    budget: MemoryBudget
    outbox: Outbox
    clock: Callable[[], float]
    waiting: deque[Row] = field(default_factory=deque[Row])
    counters: Counters = field(default_factory=Counters)
    prefills: Prefills = field(init=False)
    batch: DecodeBatch = field(init=False)

    def __post_init__(self) -> None:
        self.batch = self.new_batch()
        self.prefills = Prefills(
            model=self.loaded.model,
            new_cache=self.loaded.new_cache,
            prefix=self.prefix,
            chunk=self.config.engine.prefill_chunk,
            counters=self.counters,
            on_error=lambda row, error: self._fail(row, _internal_fault("prefill", row, error)),
        )

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.prefills.rows or self.batch)

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

    def cancel(self, stream: AnswerStream) -> None:
        """End the stream's request, wherever it is, and keep the KV that is proven."""
        self._end_where(lambda row: row.stream is stream, RequestCancelled)

    def abort(self, error: Callable[[], WorkerError]) -> None:
        """End every request; nothing of them is stored."""
        self._end_where(lambda _: True, error, store=False)

    def step(self) -> None:
        """One round: end what is overdue, admit, prefill within the budget, then one token for every row."""
        now = self.clock()
        self._end_where(lambda r: r.request.deadline is not None and r.request.deadline <= now, DeadlineExceeded)
        self._admit()
        self.prefills.run()
        self._join()
        if self.batch:
            self._decode()

    def close(self) -> None:
        """Drop every MLX object, here on the thread that made them, and return their memory."""
        self.prefills.rows.clear()
        self.prefix.close()
        del self.loaded, self.prefills, self.batch, self.prefix, self.new_batch
        gc.collect()
        mx.clear_cache()

    def snapshot(self, now: float) -> EngineSnapshot:
        """A picture of the session for other threads."""
        return EngineSnapshot(
            at=now,
            active_bytes=mx.get_active_memory(),
            buffer_pool=mx.get_cache_memory(),
            weights=self.loaded.weight_bytes,
            live_kv=self.batch.nbytes() + self.prefills.nbytes(),
            cached_kv=self.prefix.nbytes,
            budget=self.budget.total,
            waiting=len(self.waiting),
            prefilling=len(self.prefills.rows),
            decoding=len(self.batch),
            counters=replace(self.counters),
            cache=self.prefix.figures(),
        )

    # Admission and memory

    def _admit(self) -> None:
        while self.waiting and len(self.prefills.rows) + len(self.batch) < self.max_rows:
            row = self.waiting[0]
            live = self._live_after(row)
            if not self.budget.fits(live):
                if self.prefills.rows or self.batch:
                    return
                self.waiting.popleft()
                self._fail(row, Overloaded(self.budget.refusal(len(row.feed))))
                continue
            self.waiting.popleft()
            self.prefix.shrink_to(self.budget.room_for_cache(live))
            row.admitted_at = row.admitted_at or self.clock()
            row.pending = int(row.feed[-1])
            row.chunk_ends = chunk_ends(len(row.feed), self.config.engine.prefill_chunk, self._boundaries(row))
            self.prefills.admit(row)

    def _boundaries(self, row: Row) -> tuple[int, ...]:
        if not self.prefix.snapshots:
            return ()
        return (*row.submit.prompt.boundaries, *range(SNAPSHOT_EVERY, len(row.feed), SNAPSHOT_EVERY))

    def _live_after(self, row: Row) -> int:
        """Bytes of KV when `row` has joined: the batch pads every row to the longest."""
        lengths = [r.covered for r in self.batch.rows] + [len(r.feed) for r in self.prefills.rows] + [len(row.feed)]
        return self.budget.joined(lengths)

    def _relieve(self) -> None:
        """Rows have outgrown the budget: the cache gives way, then the youngest row goes back to the queue."""
        while len(self.batch) > 1:
            live = self.batch.nbytes() + self.prefills.nbytes()
            self.prefix.shrink_to(self.budget.room_for_cache(live))
            if self.budget.fits(live):
                return
            self._preempt(max(self.batch.rows, key=lambda row: row.submit.accepted_at))

    def _preempt(self, row: Row) -> None:
        self.counters.preemptions += 1
        row.preemptions += 1
        if row.stores:
            self._store(row)
        self.batch.leave([row])
        row.feed = row.tokens()
        row.covered = 0
        self.waiting.appendleft(row)
        log.info("event=preempted request_id=%s tokens=%d", row.request.request_id, len(row.feed))

    # Decode

    def _join(self) -> None:
        ready = self.prefills.take_prefilled()
        if not ready:
            return
        now = self.clock()
        for row in ready:
            row.decoding_at = row.decoding_at or now
            self.counters.cached_tokens += row.cached_tokens if not row.preemptions else 0
        try:
            self.batch.join(ready)
        except Exception as error:  # noqa: BLE001  caches half merged: the batch is lost
            self._lose_batch([*self.batch.rows, *(r for r in ready if r not in self.batch.rows)], error)

    def _decode(self) -> None:
        started = self.clock()
        rows = list(self.batch.rows)
        try:
            emitted = self.batch.step()
        except Exception as error:  # noqa: BLE001  keys and KV may be out of step: the batch is lost
            self._lose_batch(rows, error)
            return
        now = self.clock()
        self.counters.decode_steps += 1
        self.counters.decode_seconds += now - started
        self.batch.leave([item.row for item in emitted if self._take_token(item, now)])
        self._relieve()

    def _take_token(self, item: Emitted, now: float) -> bool:
        """Turn a token into what its client sees; whether that was the row's end."""
        row = item.row
        if item.error is not None:
            self._fail(row, _row_fault(row, item.error))
            return True
        try:
            reason, piece = self._advance(row, item)
        except Exception as error:  # noqa: BLE001  a parser's failure is its own request's
            self._fail(row, _internal_fault("output", row, error))
            return True
        if reason is not None:
            self._finish(row, reason, piece, now)
        elif piece:
            self.outbox.post(row.stream, Delta(piece=piece, usage=row.usage(now)))
        return reason is not None

    def _advance(self, row: Row, item: Emitted) -> tuple[FinishReason | None, Piece]:
        row.generated.append(item.token)
        output = row.submit.output
        if item.token in self.loaded.eos_ids:
            return FinishReason.STOP, output.finish()
        row.completion_tokens += 1
        self.counters.generated_tokens += 1
        if item.logprobs is not None:
            row.logprobs.append(token_logprob(item.token, item.logprobs, row.submit.token_bytes))
        piece = output.push(item.token)
        if output.stopped:
            return FinishReason.STOP_STRING, piece + output.finish()
        if row.completion_tokens >= row.submit.max_tokens:
            return FinishReason.LENGTH, piece + output.finish()
        return None, piece

    # Ends

    def _finish(self, row: Row, reason: FinishReason, piece: Piece, now: float) -> None:
        if reason is FinishReason.STOP and row.submit.output.has_tool_calls:
            reason = FinishReason.TOOL_CALLS
        if row.stores and row.request.cache_answer:
            self._store(row)
        notes = {"x-prompt-cache-tokens": str(row.cached_tokens), "x-prompt-cache-reason": row.cache_reason}
        usage = row.usage(now)
        log.debug(
            "event=finished request_id=%s reason=%s usage=%s cache=%s", row.request.request_id, reason, usage, notes
        )
        self.outbox.post(
            row.stream, Finished(reason=reason, piece=piece, usage=usage, logprobs=tuple(row.logprobs), notes=notes)
        )

    def _fail(self, row: Row, error: WorkerError) -> None:
        self.counters.failed += 1
        self.outbox.post(row.stream, Failed(error=error))

    def _store(self, row: Row) -> None:
        """Keep what the row's KV proves: its tokens up to the last one fed."""
        caches = row.caches if row.caches is not None else self.batch.view(row)
        self.prefix.insert(row.tokens()[: row.covered], caches)

    def _end_where(self, which: Callable[[Row], bool], error: Callable[[], WorkerError], *, store: bool = True) -> None:
        for row in [r for r in self.waiting if which(r)]:
            self.waiting.remove(row)
            self._fail(row, error())
        for row in [r for r in self.prefills.rows if which(r)]:
            if store and row.stores and row.leader is None and row.covered:
                self._store(row)
            self.prefills.remove(row)
            self._fail(row, error())
        leaving = [r for r in self.batch.rows if which(r)]
        for row in leaving:
            if store and row.stores and row.request.cache_answer:
                self._store(row)
            self._fail(row, error())
        self.batch.leave(leaving)

    def _lose_batch(self, rows: list[Row], error: Exception) -> None:
        """A failed step leaves keys and KV out of step: nothing of the batch is used again."""
        fault = _internal_fault("step", None, error)
        self.batch = self.new_batch()
        for row in rows:
            row.caches = None
            self._fail(row, fault)
        mx.clear_cache()
        # An exception inside a compiled function can leave this thread's random state broken.
        mx.random.seed(secrets.randbits(32))


def _row_fault(row: Row, reason: str) -> WorkerError:
    """Why one row of a draw got no token: its own grammar or settings leave none, or the model's logits are broken."""
    log.error("event=row_failed request_id=%s reason=%r", row.request.request_id, reason)
    if reason == NOT_FINITE:
        return InternalFault(reason)
    return InvalidRequest("Grammar" if row.submit.constraint is not None else "LogitBias", reason)


def _internal_fault(where: str, row: Row | None, error: Exception) -> InternalFault:
    fault_id = secrets.token_hex(4)
    request_id = row.request.request_id if row else "batch"
    log.error("event=%s_failed request_id=%s fault=%s error=%r", where, request_id, fault_id, str(error)[:300])
    log.debug("fault=%s", fault_id, exc_info=error)
    return InternalFault(f"internal error in {where}, fault {fault_id}")
