"""Answers as clients see them: what each reply brings, and what is told at the end."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from backend.pb import backend_pb2 as pb

# Reasons for an end that may have come within a tool call; a stream has the beginning of such a call.
CUT: Final = ("length", "stop-string")


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of a tool call: id and name come first, arguments in pieces."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one reply brings.

    Attributes:
        tokens: Generated so far.
        prompt_tokens: Of the whole prompt.
        decode_s: Seconds of decoding so far, as the worker has it.
    """

    content: str
    reasoning: str
    calls: tuple[CallPart, ...]
    tokens: int
    prompt_tokens: int
    decode_s: float = 0.0

    @property
    def shows(self) -> bool:
        """Whether there is anything to see."""
        return bool(self.content or self.reasoning or self.calls)


@dataclass(frozen=True, slots=True)
class End:
    """What the worker tells at an answer's end.

    Attributes:
        cached_tokens: Prompt tokens that came from the cache; None where it does not say.
        drafted_tokens, accepted_tokens: Tokens that were guessed and looked at, and those that were right; 0 where it
            does not say.
    """

    reason: str = ""
    cached_tokens: int | None = None
    cache_reason: str = ""
    drafted_tokens: int = 0
    accepted_tokens: int = 0


def part_of(reply: pb.Reply) -> Part:
    """A reply's news. Deltas have all of the text, where there are any; some replies have it in `message` alone."""
    deltas = reply.chat_deltas
    calls = (CallPart(call.index, call.id, call.name, call.arguments) for delta in deltas for call in delta.tool_calls)
    return Part(
        content="".join(delta.content for delta in deltas) if deltas else reply.message.decode(errors="replace"),
        reasoning="".join(delta.reasoning_content for delta in deltas),
        calls=tuple(calls),
        tokens=reply.tokens,
        prompt_tokens=reply.prompt_tokens,
        decode_s=reply.timing_token_generation / 1000,
    )


def end_of(trailing: Iterable[tuple[str, str | bytes]] | None) -> End:
    """What trailing metadata says."""
    told: Mapping[str, str] = {key: value for key, value in trailing or () if isinstance(value, str)}
    cached = _number(told, "x-prompt-cache-tokens")
    return End(
        reason=told.get("x-finish-reason", ""),
        cached_tokens=cached,
        cache_reason=told.get("x-prompt-cache-reason", ""),
        drafted_tokens=_number(told, "x-drafted-tokens") or 0,
        accepted_tokens=_number(told, "x-accepted-tokens") or 0,
    )


def _number(told: Mapping[str, str], name: str) -> int | None:
    text = told.get(name, "")
    return int(text) if text.isdecimal() else None


class Stopwatch:
    """When the tokens of one answer came, as its client saw them.

    Args:
        began: When it was asked for, in seconds of `time.perf_counter`.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.first: float | None = None
        self.last = began
        self.tokens = 0

    def saw(self, tokens: int, now: float | None = None) -> None:
        """So many tokens are known by now."""
        moment = time.perf_counter() if now is None else now
        if tokens > self.tokens:
            self.last = moment
            if self.first is None:
                self.first = moment
        self.tokens = max(self.tokens, tokens)

    @property
    def first_seconds(self) -> float | None:
        """To the first token; None where there was none."""
        return None if self.first is None else self.first - self.began
