"""Running a parser or a whole stream over text that is cut in some way."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from backend.core.events import Piece, ToolCallDelta
from backend.output import OutputFormat, OutputStream, SectionParser
from tests import chosen


class TextTokens:
    """A decoder whose tokens are indices into a list of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def push(self, token: int) -> str:
        return self._texts[token]

    def finish(self) -> str:
        return ""


def numbered_ids() -> Any:
    """Call ids that are the same in every run."""
    counter = itertools.count()
    return lambda: f"id{next(counter)}"


def parser_of(
    output_format: OutputFormat,
    *,
    opens_reasoning: bool = False,
    tools: Sequence[dict[str, Any]] = (),
    in_parts: bool = False,
    one_call: bool = False,
) -> SectionParser:
    return output_format.parser(
        opens_reasoning=opens_reasoning,
        tools=tools,
        calls_in_parts=in_parts,
        one_call=one_call,
        new_id=numbered_ids(),
    )


def run(
    output_format: OutputFormat, parts: Sequence[str], *, stops: tuple[str, ...] = (), cut: bool = False, **how: Any
) -> Piece:
    """Everything that a stream over `parts` sends, added up, each call as its name and its arguments."""
    stream = OutputStream(TextTokens(parts), stops, parser_of(output_format, **how))
    total = Piece()
    for token in range(len(parts)):
        total = total + stream.push(token)
        if stream.stopped:
            break
    return joined(total + stream.finish(cut=cut))


def joined(piece: Piece) -> Piece:
    """The piece with each call's arguments in one delta; indices in order, each call's name first and once."""
    deltas: list[ToolCallDelta] = []
    for delta in piece.tool_calls:
        if delta.name:
            assert delta.id and delta.index == sum(bool(each.name) for each in deltas)
            deltas.append(delta)
            continue
        assert (delta.index, delta.id) == (deltas[-1].index, "")
        before = "" if deltas[-1].name else deltas.pop().arguments
        deltas.append(ToolCallDelta(index=delta.index, arguments=before + delta.arguments))
    return Piece(content=piece.content, reasoning=piece.reasoning, tool_calls=tuple(deltas))


def cuts(text: str, *, pairs_below: int = 90) -> Iterator[list[str]]:
    """Every character alone, every cut in two and, for short texts, cuts in three: a few, or all if so chosen."""
    yield list(text)
    for i in range(len(text) + 1):
        yield [text[:i], text[i:]]
    if len(text) < pairs_below:
        for i, j in itertools.combinations(range(1, len(text)), 2):
            # Those with a short middle, and of the others some that begin and end everywhere.
            if chosen.every_cut or j - i < 3 or (i + j) % 23 == 0:
                yield [text[:i], text[i:j], text[j:]]


def calls_in(piece: Piece) -> list[tuple[str, str]]:
    """The calls of an answer as (name, arguments), put together as a client does it."""
    calls: dict[int, list[str]] = {}
    for delta in piece.tool_calls:
        name, arguments = calls.setdefault(delta.index, ["", ""])
        calls[delta.index] = [name + delta.name, arguments + delta.arguments]
    return [(name, arguments) for name, arguments in calls.values()]


def texts(pieces: Iterable[Piece]) -> list[str]:
    return [piece.content for piece in pieces]
