"""The events that the engine sends a request's reader: any number of deltas, then exactly one end."""

from dataclasses import dataclass
from enum import StrEnum

from backend.core.errors import WorkerError
from backend.core.pooled import PooledResult


class FinishReason(StrEnum):
    """Why an answer ended; the value is sent as `x-finish-reason`."""

    STOP = "stop"  # the model ended its turn
    STOP_STRING = "stop-string"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One token's natural-log probability under the model, before penalties and restrictions.

    Attributes:
        token: Its bytes; may be part of a character.
        top: The most likely tokens at that place, most likely first, without alternatives of their own.
    """

    id: int
    token: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a tool call: the first of an index has `id` and `name`, later ones add to `arguments` (JSON text)."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """New output text, already parsed: what a client may see, and never see again."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)

    def __add__(self, other: "Piece") -> "Piece":
        return Piece(
            content=self.content + other.content,
            reasoning=self.reasoning + other.reasoning,
            tool_calls=self.tool_calls + other.tool_calls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Running totals of a request.

    Attributes:
        prompt_tokens: Of the whole prompt, cached or not.
        completion_tokens: Generated so far, without end-of-sequence tokens.
        cached_tokens: Prompt tokens whose KV came from the prompt cache.
        drafted_tokens, accepted_tokens: Tokens of the answer that were guessed and looked at, and those of them that
            were drawn; None of the first where nothing guesses, or clients are told nothing of it.
        queue_ms, prefill_ms, decode_ms: Wall time in each stage so far.
        first_token_ms: From the acceptance to the first token of the answer; 0 while there is none.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int | None = None
    accepted_tokens: int = 0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    first_token_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Something new for the client, with the totals as they stand after it."""

    piece: Piece
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer is complete.

    Attributes:
        piece: Text that was held back until now.
        cache_reason: Why no more of the prompt came from the prompt cache; empty where clients are told nothing of it.
        result: What was computed in place of an answer.
    """

    reason: FinishReason
    piece: Piece
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    cache_reason: str = ""
    result: PooledResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request ended without a complete answer.

    Attributes:
        usage: The totals at its end; None where the engine thread never had it.
    """

    error: WorkerError
    usage: Usage | None = None


Event = Delta | Finished | Failed
