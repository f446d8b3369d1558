"""The whole way of an answer: tokens, stop strings, sections."""

from typing import Any

import pytest

from backend.core.events import Piece
from backend.output import OutputFormat, OutputStream, PlainParser
from backend.output.formats import formats
from tests.output.cutting import TextTokens, calls_in, cuts, run
from tests.output.golden import TOOLS, format_named

THINKING = OutputFormat("<think>", "</think>", formats()["json_tools"])
ANSWER = (
    "<think>\nSome th\u00f4ught.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Z\u00fcrich \U0001f30d"}}\n</tool_call>\n'
    '<tool_call>{"name": "now"}</tool_call>\nDone.'
)


def test_a_plain_answer_passes_unchanged():
    stream = OutputStream(TextTokens([" Hello", "\n", " "]), (), PlainParser())
    assert [stream.push(i).content for i in range(3)] == [" Hello", "\n", " "]
    assert stream.finish() == Piece()


def test_an_answer_is_split_into_reasoning_content_and_calls():
    whole = run(THINKING, [ANSWER])
    assert whole.reasoning == "Some th\u00f4ught."
    assert whole.content == "Let me look.\n\nDone."
    assert calls_in(whole) == [("get_weather", '{"city": "Z\u00fcrich \U0001f30d"}'), ("now", "{}")]


def test_the_stream_adds_up_to_the_unary_answer_at_every_cut():
    whole = run(THINKING, [ANSWER])
    for parts in cuts(ANSWER):
        assert run(THINKING, parts) == whole


def test_a_stop_string_inside_a_call_leaves_nothing_of_it_at_every_cut():
    whole = run(THINKING, [ANSWER], stops=("Z\u00fcr",))
    assert whole.content == "Let me look."
    assert not whole.tool_calls
    for parts in cuts(ANSWER):
        assert run(THINKING, parts, stops=("Z\u00fcr",)) == whole


def test_a_stop_string_over_a_marker_is_looked_for_before_parsing():
    whole = run(THINKING, [ANSWER], stops=("</think>",))
    assert whole == Piece(reasoning="Some th\u00f4ught.")


def test_finish_reports_what_a_stop_string_held():
    stream = OutputStream(TextTokens(["a", "EN"]), ("END",), PlainParser())
    assert (stream.push(0).content, stream.push(1).content, stream.finish().content) == ("a", "", "EN")
    assert not stream.stopped


def test_each_call_is_sent_as_soon_as_it_is_complete_with_its_name_first():
    stream = OutputStream(TextTokens(list(ANSWER)), (), THINKING.parser(opens_reasoning=False))
    sent = [(i, stream.push(i).tool_calls) for i in range(len(ANSWER))]
    calls = [(i, deltas) for i, deltas in sent if deltas]
    ends = [ANSWER.index("}}") + 1, ANSWER.index('"now"}') + len('"now"')]
    assert [i for i, _ in calls] == ends
    assert [[(d.index, d.name, bool(d.id)) for d in deltas] for _, deltas in calls] == [
        [(0, "get_weather", True), (0, "", False)],
        [(1, "now", True), (1, "", False)],
    ]
    assert stream.has_tool_calls


def test_arguments_are_sent_as_they_are_read_once_their_first_key_is_certain():
    stream = OutputStream(TextTokens(list(ANSWER)), (), THINKING.parser(opens_reasoning=False, calls_in_parts=True))
    sent = [(i, delta) for i in range(len(ANSWER)) for delta in stream.push(i).tool_calls if delta.index == 0]
    begin = ANSWER.index('{"city"')
    (at, first), *rest = sent
    assert (at, first.name, bool(first.id)) == (begin + len('{"city":') - 1, "get_weather", True)
    assert [(i - begin, delta.arguments) for i, delta in rest[:4]] == [
        (7, '{"city": '),
        (9, '"'),
        (10, "Z"),
        (11, "\u00fc"),
    ]
    assert "".join(delta.arguments for _, delta in rest) == '{"city": "Z\u00fcrich \U0001f30d"}'


# Text, content at the token limit, content at the model's own end, arguments sent in parts by then.
HALVES = [
    ('A.\n<tool_call>{"name": "now", "argu', "A.", 'A.\n<tool_call>{"name": "now", "argu', []),
    (
        'A.\n<tool_call>{"name": "get_weather", "arguments": {"city": "Z',
        "A.",
        'A.\n<tool_call>{"name": "get_weather", "arguments": {"city": "Z',
        [("get_weather", '{"city": "Z')],
    ),
    ("A.\n<tool_call>\n", "A.", "A.\n<tool_call>\n", []),
    ("A.\n<tool_", "A.", "A.\n<tool_", []),
    ("if a <t", "if a <t", "if a <t", []),
    ("<tool_call> opens one.", "<tool_call> opens one.", "<tool_call> opens one.", []),
]


@pytest.mark.parametrize(("text", "at_limit", "at_end", "begun"), HALVES)
def test_half_a_call_is_none_of_an_answer_that_was_cut(text: str, at_limit: str, at_end: str, begun: list[Any]):
    for parts in cuts(text, pairs_below=0):
        assert run(THINKING, parts, cut=True) == Piece(content=at_limit)
        assert run(THINKING, parts) == Piece(content=at_end)
        in_parts = run(THINKING, parts, cut=True, in_parts=True)
        assert (in_parts.content, calls_in(in_parts)) == (at_limit, begun)


def test_a_call_that_breaks_off_after_its_beginning_was_sent_goes_on_as_text_where_it_broke():
    text = '<tool_call>{"name": "f", "arguments": {"a": 1 oops}}</tool_call> Sorry.'
    for parts in cuts(text, pairs_below=0):
        whole = run(THINKING, parts)
        assert whole == Piece(content=text)
        sent = run(THINKING, parts, in_parts=True)
        assert calls_in(sent) == [("f", '{"a": 1')]
        assert sent.content == "oops}}</tool_call> Sorry."
    parser = THINKING.parser(opens_reasoning=False, calls_in_parts=True)
    parser.feed(text)
    assert not parser.has_tool_calls


NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"


@pytest.mark.parametrize("in_parts", [False, True])
def test_of_calls_that_are_found_together_at_the_end_the_only_one_that_may_come_is_the_first(in_parts: bool):
    broken = "<tool_call>\n<function=get_weather>\n<parameter=city>\nx "
    whole = run(format_named("qwen3_coder"), list(broken + NOW + NOW), tools=TOOLS, in_parts=in_parts)
    assert [name for name, _ in calls_in(whole)].count("now") == 2
    for parts in ([broken + NOW + NOW], list(broken + NOW + NOW)):
        one = run(format_named("qwen3_coder"), parts, tools=TOOLS, in_parts=in_parts, one_call=True)
        assert [name for name, _ in calls_in(one)].count("now") == 1


@pytest.mark.parametrize("in_parts", [False, True])
def test_the_answer_is_over_once_its_only_call_is_whole(in_parts: bool):
    for one_call in (True, False):
        parser = THINKING.parser(opens_reasoning=False, calls_in_parts=in_parts, one_call=one_call)
        stream = OutputStream(TextTokens(list(ANSWER)), (), parser)
        over: list[bool] = []
        for token in range(len(ANSWER)):
            stream.push(token)
            over.append(stream.called)
        assert over.count(False) == (ANSWER.index("}}") + 1 if one_call else len(ANSWER))
        assert over == sorted(over)


def test_nothing_comes_behind_the_only_call():
    first = run(THINKING, [ANSWER[: ANSWER.index("</tool_call>")]])
    for parts in cuts(ANSWER, pairs_below=0):
        assert run(THINKING, parts, one_call=True) == first
    pythonic = run(
        format_named("pythonic"),
        ["<|tool_call_start|>[now(), now(), now()]<|tool_call_end|>"],
        tools=TOOLS,
        one_call=True,
    )
    assert calls_in(pythonic) == [("now", "{}")]
