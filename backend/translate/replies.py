"""Events into `Reply` messages.

The rules follow from what hosts do with a reply: counts of the last one win, so every reply has totals; a
reply with content and reasoning at once confuses which of the two fields is read, so each carries one kind;
nothing is sent twice.
"""

from backend.core.events import Delta, Finished, Piece, ToolCallDelta, Usage
from backend.pb import backend_pb2 as pb
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
        return self._replies(clean(event.piece), event.usage)

    def finished(self, event: Finished, logprobs: bytes = b"") -> list[pb.Reply]:
        """The last replies: text that was held, then, on the last one, the logprobs as JSON."""
        replies = self._replies(clean(event.piece), event.usage)
        if needs_filler(self._shape, event.usage, has_answer=self._has_answer):
            replies += self._replies(Piece(content=_BLANK_TURN), event.usage)
        replies = replies or [_reply("", [], event.usage)]
        replies[-1].logprobs = logprobs
        return replies

    def _replies(self, piece: Piece, usage: Usage) -> list[pb.Reply]:
        """One reply each for reasoning, content and calls, without the empty ones."""
        replies: list[pb.Reply] = []
        if piece.reasoning:
            replies.append(_reply("", [pb.ChatDelta(reasoning_content=piece.reasoning)], usage))
        if piece.content:
            message = piece.content if self._shape.in_message else ""
            replies.append(_reply(message, [pb.ChatDelta(content=piece.content)], usage))
        if piece.tool_calls:
            replies.append(_reply("", [pb.ChatDelta(tool_calls=_calls(piece))], usage))
        self._has_answer = self._has_answer or _answers(piece)
        return replies


def whole_reply(pieces: list[Piece], event: Finished, shape: ReplyShape, logprobs: bytes = b"") -> pb.Reply:
    """The one reply of a unary call, from the pieces of its deltas, its end, and its logprobs as JSON."""
    piece = clean(join([*pieces, event.piece]))
    if needs_filler(shape, event.usage, has_answer=_answers(piece)):
        piece += Piece(content=_BLANK_TURN)
    # White space alone is an answer to the host in a delta, and a blank turn in message.
    shown_in_message = bool(piece.content.strip()) or not shape.never_blank
    plain = shape.plain and shown_in_message and not piece.reasoning and not piece.tool_calls
    deltas: list[pb.ChatDelta] = []
    if piece and not plain:
        deltas = [pb.ChatDelta(content=piece.content, reasoning_content=piece.reasoning, tool_calls=_calls(piece))]
    reply = _reply(piece.content if shape.in_message else "", deltas, event.usage)
    reply.logprobs = logprobs
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


def _calls(piece: Piece) -> list[pb.ToolCallDelta]:
    return [
        pb.ToolCallDelta(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
        for call in piece.tool_calls
    ]
