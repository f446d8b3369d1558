"""What every tool-call format must hold, checked on its golden texts."""

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.call_shape import Fixed
from backend.core.events import Piece
from backend.output import OutputFormat, OutputStream
from backend.output.formats import formats
from backend.output.text.decoding import TableDecoder
from tests import chosen
from tests.grammar.json_prefix import is_json, is_json_prefix
from tests.output.cutting import calls_in, cuts, joined, numbered_ids, run

TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "ratio": {"type": "number"},
                    "detailed": {"type": "boolean"},
                    "places": {"type": "array", "items": {"type": "string"}},
                    "options": {"type": "object"},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
)

# Where the model's end of its answer is that of a call without arguments, in formats whose end marker is no text then.
_EMPTY_CALLS = {"harmony": "<|message|>"}


@dataclass(frozen=True)
class Golden:
    """A text as the model writes it, and what it means.

    Attributes:
        calls: Pairs (name, arguments).
        same_as_mlx_lm: Compare the calls with those of mlx-lm's parser.
    """

    text: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    content: str = ""
    reasoning: str = ""
    same_as_mlx_lm: bool = True
    opens_reasoning: bool = False


def format_named(name: str) -> OutputFormat:
    """The format with the reasoning markers that go with it."""
    calls = formats()[name]
    return OutputFormat(*(calls.think or ("<think>", "</think>")), calls, calls.ignored)


def shaped(output_format: OutputFormat, function: str, arguments: str) -> str:
    """A forced call of a function with JSON arguments, in its section."""
    (call,), section = output_format.forced_calls(TOOLS, function), output_format.call_sections[0]
    own = "".join(part.text if isinstance(part, Fixed) else arguments for part in call.shape)
    return section.begin + own + section.end


def decoded(piece: Piece) -> list[tuple[str, dict[str, Any]]]:
    return [(name, json.loads(arguments)) for name, arguments in calls_in(piece)]


def check(name: str, golden: Golden) -> None:
    """The text means what it should, however it is cut, and mlx-lm reads the same calls."""
    whole = run_golden(name, golden, [golden.text])
    assert decoded(whole) == list(golden.calls)
    assert (whole.content, whole.reasoning) == (golden.content, golden.reasoning)
    for parts in cuts(golden.text):
        assert run_golden(name, golden, parts) == whole
    for parts in cuts(golden.text, pairs_below=0):
        assert run_golden(name, golden, parts, in_parts=True) == whole
    check_cut_off(name, golden)
    check_bytes(name, golden, whole)
    if golden.same_as_mlx_lm:
        assert mlx_lm_calls(name, golden.text) == list(golden.calls)


def check_bytes(name: str, golden: Golden, whole: Piece) -> None:
    """Streamed byte by byte: at any time the arguments begin those of the whole answer, and in the end are they."""
    expected = calls_in(whole)
    parser = format_named(name).parser(
        opens_reasoning=golden.opens_reasoning, tools=TOOLS, calls_in_parts=True, new_id=numbered_ids()
    )
    stream = OutputStream(TableDecoder(Bytes()), (), parser)
    sent = Piece()
    for byte in golden.text.encode():
        sent = sent + stream.push(byte)
        calls = calls_in(sent)
        for (function, arguments), (right, all_of_them) in zip(calls, expected, strict=False):
            assert function == right
            assert all_of_them.startswith(arguments)
        assert len(calls) <= len(expected)
    assert joined(sent + stream.finish()) == whole


class Bytes:
    """Tokens of one byte each."""

    def bytes_of(self, token: int) -> bytes:
        return bytes([token])

    def text_of(self, token: int) -> str | None:
        return chr(token) if token < 128 else None

    def is_hidden(self, token: int) -> bool:
        return False

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode()


def check_cut_off(name: str, golden: Golden) -> None:
    """An answer cut off anywhere has only whole calls, in order, and is the same by characters and at once."""
    expected = calls_in(run_golden(name, golden, [golden.text]))
    for end in range(len(golden.text)):
        text = golden.text[:end]
        whole = run_golden(name, golden, [text])
        calls = decoded(whole)
        if calls and not calls[-1][1] and text.rstrip().endswith(_EMPTY_CALLS.get(name, text + "!")):
            calls.pop()
        assert calls == list(golden.calls)[: len(calls)]
        check_fragments(name, golden, text, expected)
        if chosen.every_cut or end % 11 == 0:
            assert run_golden(name, golden, list(text)) == whole


def check_fragments(name: str, golden: Golden, text: str, expected: list[tuple[str, str]]) -> None:
    """Sent in parts and cut off by a limit: the calls that are whole, and at most one that has begun and may go on."""
    parts = run_golden(name, golden, [text], in_parts=True, cut=True)
    if chosen.every_cut or len(text) % 11 == 0:
        assert run_golden(name, golden, list(text), in_parts=True, cut=True) == parts
    whole = run_golden(name, golden, [text], cut=True)
    check_runnable(parts, whole)
    begun = calls_in(parts)[len(calls_in(whole)) :]
    assert calls_in(parts)[: len(calls_in(whole))] == calls_in(whole)
    assert (parts.content, parts.reasoning) == (whole.content, whole.reasoning)
    assert len(begun) <= 1
    for function, arguments in begun:
        goes_on = expected[len(calls_in(whole))]
        assert function == goes_on[0]
        assert goes_on[1].startswith(arguments)


def check_runnable(parts: Piece, whole: Piece) -> None:
    """What a client can run of a stream is what the whole answer calls, in its order; of other calls it has parts."""
    streamed = calls_in(parts)
    assert [call for call in streamed if is_json(call[1])] == calls_in(whole)
    assert all(arguments for _, arguments in streamed)  # none at all may be taken for none to give


def check_damaged(name: str, goldens: Sequence[Golden]) -> None:
    """Whatever is broken in it: no exception, valid JSON, and the same answer however it is cut."""

    @settings(max_examples=100 if chosen.every_cut else 25 if chosen.thorough else 8)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        golden = data.draw(st.sampled_from(goldens))
        text = damaged(data, golden.text)
        stops = tuple(data.draw(st.lists(substrings(golden.text), max_size=3)))
        how: dict[str, Any] = {"stops": stops, "cut": data.draw(st.booleans())}
        whole = run_golden(name, golden, [text], **how)
        "".join([whole.content, whole.reasoning, *(call.arguments for call in whole.tool_calls)]).encode()
        assert all(isinstance(arguments, dict) for _, arguments in decoded(whole))
        points = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        parts = [text[i:j] for i, j in zip([0, *points], [*points, len(text)], strict=True)]
        assert run_golden(name, golden, parts, **how) == whole
        assert run_golden(name, golden, list(text), **how) == whole
        in_parts = run_golden(name, golden, [text], in_parts=True, **how)
        assert run_golden(name, golden, parts, in_parts=True, **how) == in_parts
        assert run_golden(name, golden, list(text), in_parts=True, **how) == in_parts
        check_runnable(in_parts, whole)
        assert all(is_json_prefix(arguments) for _, arguments in calls_in(in_parts))

    holds()


def damaged(data: st.DataObject, text: str) -> str:
    """`text` with up to three pieces cut out, doubled or replaced."""
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        middle = data.draw(st.sampled_from(["", text[start:end] * 2, "\u00e9\U0001f30d", '"', "<", "{", "\n", " x"]))
        text = text[:start] + middle + text[end:]
    return text


def substrings(text: str) -> st.SearchStrategy[str]:
    """Stop strings that occur in the text, or nearly."""
    places = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 8))
    return places.map(lambda place: text[place[0] : place[0] + place[1]])


def run_golden(name: str, golden: Golden, parts: Sequence[str], **how: Any) -> Piece:
    return run(format_named(name), parts, tools=TOOLS, opens_reasoning=golden.opens_reasoning, **how)


def mlx_lm_calls(name: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    """What mlx-lm's own parser makes of the same text."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    start, end = re.escape(module.tool_call_start), re.escape(module.tool_call_end)
    calls: list[tuple[str, dict[str, Any]]] = []
    for body in re.findall(f"{start}(.*?){end or '$'}", text, re.DOTALL):
        parsed = module.parse_tool_call(body, list(TOOLS))
        calls += [(call["name"], call["arguments"]) for call in (parsed if isinstance(parsed, list) else [parsed])]
    return calls
