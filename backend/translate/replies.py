"""Events into `Reply` messages.

The rules follow from what hosts do with a reply: counts of the last one win, so every reply has totals; a
reply with content and reasoning at once confuses which of the two fields is read, so each carries one kind;
nothing is sent twice.
"""

from collections.abc import Iterator

from backend.core.events import Delta, Finished, Piece, ToolCallDelta, Usage
from backend.pb import backend_pb2 as pb
from backend.translate.logprobs import logprobs_json
from backend.translate.reply_shape import ReplyShape

# What a host takes for an undecodable byte; it stops showing text for good when it meets one.
_REPLACEMENT = "\ufffd"
_BLANK_TURN = " "


class ReplyStream:
    """One answer's replies, in order. Of one request; event loop only."""

    def __init__(self, shape: ReplyShape) -> None:
        self._shape = shape
        self._has_answer = False

    def delta(self, event: Delta) -> list[pb.Reply]:
        """Replies with what is new; none where nothing is."""
        return [self._reply(piece, event.usage) for piece in self._pieces(event.piece)]

    def finished(self, event: Finished) -> list[pb.Reply]:
        """The last replies: text that was held, then, on the last one, the logprobs."""
        piece = clean(event.piece)
        self._has_answer = self._has_answer or _answers(piece)
        if needs_filler(self._shape, event.usage, has_answer=self._has_answer):
            piece += Piece(content=_BLANK_TURN)
        replies = [self._reply(part, event.usage) for part in split(piece)] or [self._reply(Piece(), event.usage)]
        if event.logprobs:
            replies[-1].logprobs = logprobs_json(event.logprobs)
        return replies

    def _pieces(self, piece: Piece) -> Iterator[Piece]:
        piece = clean(piece)
        self._has_answer = self._has_answer or _answers(piece)
        return split(piece)

    def _reply(self, piece: Piece, usage: Usage) -> pb.Reply:
        message = piece.content if self._shape.in_message else ""
        return _reply(message, [_chat_delta(piece)] if piece else [], usage)


def whole_reply(pieces: list[Piece], event: Finished, shape: ReplyShape) -> pb.Reply:
    """The one reply of a unary call, from the pieces of its deltas and its end."""
    piece = clean(join([*pieces, event.piece]))
    if needs_filler(shape, event.usage, has_answer=_answers(piece)):
        piece += Piece(content=_BLANK_TURN)
    # White space alone is an answer to the host in a delta, and a blank turn in message.
    shown_in_message = bool(piece.content.strip()) or not shape.never_blank
    plain = shape.plain and shown_in_message and not piece.reasoning and not piece.tool_calls
    deltas = [] if plain else [_chat_delta(piece)]
    reply = _reply(piece.content if shape.in_message else "", deltas if piece else [], event.usage)
    if event.logprobs:
        reply.logprobs = logprobs_json(event.logprobs)
    return reply


def needs_filler(shape: ReplyShape, usage: Usage, *, has_answer: bool) -> bool:
    """Whether the host would take this turn for blank and run it again."""
    out_of_budget = shape.budget is not None and usage.completion_tokens >= shape.budget
    return shape.never_blank and not has_answer and not out_of_budget


def clean(piece: Piece) -> Piece:
    """The piece without U+FFFD in its content."""
    if _REPLACEMENT not in piece.content:
        return piece
    content = piece.content.replace(_REPLACEMENT, "")
    return Piece(content=content, reasoning=piece.reasoning, tool_calls=piece.tool_calls)


def split(piece: Piece) -> Iterator[Piece]:
    """The piece as one of reasoning, one of content and one of calls, without the empty ones."""
    if piece.reasoning:
        yield Piece(reasoning=piece.reasoning)
    if piece.content:
        yield Piece(content=piece.content)
    if piece.tool_calls:
        yield Piece(tool_calls=piece.tool_calls)


def join(pieces: list[Piece]) -> Piece:
    """All pieces as one, each call whole."""
    calls: dict[int, ToolCallDelta] = {}
    for call in (call for piece in pieces for call in piece.tool_calls):
        first = calls.get(call.index, ToolCallDelta(index=call.index))
        calls[call.index] = ToolCallDelta(
            index=call.index,
            id=first.id or call.id,
            name=first.name or call.name,
            arguments=first.arguments + call.arguments,
        )
    return Piece(
        content="".join(piece.content for piece in pieces),
        reasoning="".join(piece.reasoning for piece in pieces),
        tool_calls=tuple(calls[index] for index in sorted(calls)),
    )


def _answers(piece: Piece) -> bool:
    return bool(piece.content or piece.tool_calls)


def _reply(message: str, deltas: list[pb.ChatDelta], usage: Usage) -> pb.Reply:
    return pb.Reply(
        message=message.encode(),
        tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        timing_prompt_processing=usage.prefill_ms,
        timing_token_generation=usage.decode_ms,
        chat_deltas=deltas,
    )


def _chat_delta(piece: Piece) -> pb.ChatDelta:
    return pb.ChatDelta(
        content=piece.content,
        reasoning_content=piece.reasoning,
        tool_calls=[
            pb.ToolCallDelta(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
            for call in piece.tool_calls
        ],
    )
