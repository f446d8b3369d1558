"""The end of a request: told to its client once, counted, and said in the log without a word of its text."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from backend.core.constraint import OVER_LIMIT
from backend.core.errors import (
    InternalFault,
    InvalidRequest,
    Overloaded,
    RequestAborted,
    RequestCancelled,
    WorkerError,
)
from backend.core.events import Failed, Finished, FinishReason, Piece, Usage
from backend.core.logline import logline
from backend.core.pooled import PooledResult
from backend.engine.batching.row import Row
from backend.engine.channel import Outbox
from backend.engine.picture import Counters
from backend.engine.sampling.sampled import DRAW_FAILED, NOT_FINITE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finisher:
    """Engine thread only."""

    outbox: Outbox
    counters: Counters
    clock: Callable[[], float]

    def compute(self, row: Row, result: PooledResult, now: float) -> None:
        """What was wanted in place of an answer is computed."""
        self.finish(row, FinishReason.STOP, Piece(), now, result)

    def finish(
        self, row: Row, reason: FinishReason, piece: Piece, now: float, result: PooledResult | None = None
    ) -> None:
        """The answer is complete."""
        if reason is FinishReason.STOP and row.submit.output.has_tool_calls:
            reason = FinishReason.TOOL_CALLS
        usage = row.usage(now)
        if not row.request.prefill_only:
            self._count(reason, usage, now - row.submit.accepted_at)
        end = Finished(
            reason=reason,
            piece=piece,
            usage=usage,
            logprobs=tuple(row.logprobs),
            cache_reason=row.cache_reason,
            result=result,
        )
        self.outbox.post(row.stream, end)

    def _count(self, reason: FinishReason, usage: Usage, seconds: float) -> None:
        self.counters.finished[reason.value] += 1
        timings = self.counters.timings
        timings.request.observe(seconds)
        timings.queue.observe(usage.queue_ms / 1e3)
        timings.prefill.observe(usage.prefill_ms / 1e3)
        timings.decode.observe(usage.decode_ms / 1e3)
        timings.prompt_tokens.observe(usage.prompt_tokens)
        timings.generated_tokens.observe(usage.completion_tokens)

    def fail(self, row: Row, error: WorkerError) -> None:
        """The request ends without a complete answer, unless it has ended already."""
        if row.stream.ended:
            return
        if isinstance(error, RequestCancelled | RequestAborted):
            self.counters.cancelled += 1
        else:
            self.counters.failed += 1
        self.outbox.post(row.stream, Failed(error=error, usage=row.usage(self.clock())))


def row_fault(row: Row, reason: str) -> WorkerError:
    """Why one row of a draw got no token: its own grammar or settings leave none, or a fault of ours or the model's."""
    if row.sampling.fault is not None:
        return internal_fault("sampling" if reason == DRAW_FAILED else "grammar", row, row.sampling.fault)
    log.warning(logline("row_failed", request_id=row.request.request_id, constrained=row.submit.constraint is not None))
    if reason == NOT_FINITE:
        return InternalFault(reason)
    # A constraint that no grammar of the client's asked for was made of its tools' schemas.
    source = "Grammar" if row.request.grammar is not None else "Tools"
    if reason.startswith(OVER_LIMIT):
        return Overloaded(f"{source}: {reason}")
    return InvalidRequest(source if row.submit.constraint is not None else "LogitBias", reason)


def internal_fault(where: str, row: Row | None, error: BaseException) -> InternalFault:
    """Our own failure, with an id to find it by. Its text may hold a client's, so only the debug log has that."""
    fault = secrets.token_hex(4)
    request_id = row.request.request_id if row else "batch"
    log.error(logline(f"{where}_failed", request_id=request_id, fault=fault, error=type(error).__name__))
    log.debug(logline("fault", id=fault), exc_info=error)
    return InternalFault(f"internal error in {where}, fault {fault}")
