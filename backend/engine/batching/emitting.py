"""What a drawn token means for its row: text for the client, or the end."""

from dataclasses import dataclass
from enum import Enum, auto

from backend.core.events import Delta, FinishReason, Piece
from backend.engine.batching.emitted import Emitted
from backend.engine.batching.finishing import Finisher, internal_fault, row_fault
from backend.engine.batching.row import Row, token_logprob
from backend.engine.channel import Outbox
from backend.engine.loading.failures import FOREIGN
from backend.engine.picture import Counters


class Then(Enum):
    """What becomes of a row after a token."""

    GOES_ON = auto()
    FINISHED = auto()
    FAILED = auto()


@dataclass(slots=True)
class Emitter:
    """Engine thread only. One row's failure, in its draw or its parser, is its own.

    Attributes:
        eos_ids: Tokens that end an answer; a measurement may want others than the model's.
    """

    eos_ids: frozenset[int]
    finisher: Finisher
    outbox: Outbox
    counters: Counters

    def take(self, item: Emitted, now: float) -> Then:
        """Turn a token into what its client sees, at monotonic time `now`."""
        row = item.row
        if item.error is not None:
            self.finisher.fail(row, row_fault(row, item.error))
            return Then.FAILED
        try:
            reason, piece = self._advance(row, item, now)
        except FOREIGN as error:  # a parser's failure is its own request's
            self.finisher.fail(row, internal_fault("output", row, error))
            return Then.FAILED
        if reason is not None:
            self.finisher.finish(row, reason, piece, now)
            return Then.FINISHED
        if piece:
            self.outbox.post(row.stream, Delta(piece=piece, usage=row.usage(now)))
        return Then.GOES_ON

    def _advance(self, row: Row, item: Emitted, now: float) -> tuple[FinishReason | None, Piece]:
        row.generated.append(item.token)
        output = row.submit.output
        if item.token in self.eos_ids:
            return FinishReason.STOP, output.finish()
        row.completion_tokens += 1
        self.counters.generated_tokens += 1
        self._time(row, now)
        if item.logprobs is not None:
            row.logprobs.append(token_logprob(item.token, item.logprobs, row.submit.bytes_of))
        piece = output.push(item.token)
        if output.stopped:
            return FinishReason.STOP_STRING, piece + output.finish()
        if output.called:
            return FinishReason.STOP, piece
        if not self.eos_ids and row.submit.constraint is not None and row.submit.constraint.finished:
            # A model with an end token draws that next; this one would have nothing to draw.
            return FinishReason.STOP, piece + output.finish()
        if row.completion_tokens >= row.submit.max_tokens:
            return FinishReason.LENGTH, piece + output.finish(cut=True)
        return None, piece

    def _time(self, row: Row, now: float) -> None:
        timings = self.counters.timings
        if row.first_token_at:
            timings.between_tokens.observe(now - row.last_token_at)
        else:
            row.first_token_at = now
            timings.first_token.observe(now - row.submit.accepted_at)
        row.last_token_at = now
