"""Reasoning: explicit or opened by the template, closed or cut off, and the white space around it."""

import time

import pytest

from backend.core.events import Piece
from backend.output import OutputFormat
from backend.output.formats import formats
from tests.output.cutting import cuts, run

THINK = OutputFormat("<think>", "</think>", formats()["json_tools"])
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'

# Text, opened by the template, reasoning, content.
CASES = [
    ("<think>\nA b\n\nc\n</think>\n\nAnswer.\n", False, "A b\n\nc", "Answer.\n"),
    ("\n<think>A</think>B", False, "A", "B"),
    ("<think>\n\n</think>\n\nAnswer", False, "", "Answer"),
    ("Let me see.\n</think>\n\nAnswer", True, "Let me see.", "Answer"),
    ("<think>\nThe tag again.</think>Answer", True, "The tag again.", "Answer"),
    ("Let me see <think> as text</think>x", True, "Let me see <think> as text", "x"),
    ("Cut off here \n", True, "Cut off here", ""),
    ("<think>Cut off h\u00e9re </thi", False, "Cut off h\u00e9re </thi", ""),
    ("</think>\n\nAnswer", False, "", "Answer"),
    ("The end tag is </think> so.", False, "", "The end tag is </think> so."),
    (" No markers \n at all \n", False, "", " No markers \n at all \n"),
    ("First <think>then</think> last", False, "then", "First  last"),
    ("<think>A</think>x<think>B</think>y", False, "AB", "xy"),
    (f"I think {CALL} Done", True, "I think", "Done"),
    (f"Hm.\n{CALL}\n", False, "", "Hm."),
    (f"{CALL} \n", False, "", ""),
    (CALL.removesuffix("_call>"), False, "", ""),
    (f"{CALL[:-12]} </tool?", False, "", "</tool?"),
    ("1 < 2 <t <th", False, "", "1 < 2 <t <th"),
]


@pytest.mark.parametrize(("text", "opened", "reasoning", "content"), CASES)
def test_reasoning_is_told_from_content_at_every_cut(text: str, opened: bool, reasoning: str, content: str):
    whole = run(THINK, [text], opens_reasoning=opened)
    assert (whole.reasoning, whole.content) == (reasoning, content)
    for parts in cuts(text, pairs_below=60):
        assert run(THINK, parts, opens_reasoning=opened) == whole


def test_calls_inside_reasoning_end_it():
    whole = run(THINK, [f"<think>Hm. {CALL}"])
    assert whole.reasoning == "Hm."
    assert whole.tool_calls[0].name == "f"


def test_calls_are_content_if_they_are_not_to_be_parsed():
    parser = THINK.parser(opens_reasoning=False, parse_tools=False)
    assert parser.feed(f"<think>A</think>{CALL}") + parser.finish() == Piece(reasoning="A", content=CALL)
    assert not parser.has_tool_calls


def test_text_is_sent_at_once_unless_it_may_be_a_marker_or_the_space_before_one():
    parser = THINK.parser(opens_reasoning=False)
    sent = [parser.feed(part).content for part in ("Hello", " wor", "ld\n", "\nNext <", "b>", " a<thin", "g", "<")]
    assert sent == ["Hello", " wor", "ld", "\n\nNext", " <b>", " a", "<thing", ""]
    assert parser.finish().content == "<"


def test_the_pieces_of_a_long_answer_arrive_in_constant_time_each():
    parser = THINK.parser(opens_reasoning=False)
    argument = "x" * 200_000
    text = '<tool_call>{"name": "f", "arguments": {"a": "' + argument + '"}}</tool_call>'
    total = Piece()
    for i in range(0, len(text), 4):
        total = total + parser.feed(text[i : i + 4])
    assert (total + parser.finish()).tool_calls[1].arguments == '{"a": "' + argument + '"}'


def test_an_answer_that_keeps_giving_calls_back_is_no_longer_looked_at_for_calls():
    assert run(THINK, ["<tool_call>x " * 1023 + CALL]).tool_calls
    assert not run(THINK, ["<tool_call>x " * 1024 + CALL]).tool_calls


@pytest.mark.parametrize("name", sorted(formats()))
def test_endless_start_markers_are_given_back_in_bounded_work(name: str):
    marker = formats()[name].call_start
    text = f"{marker}<function=a><invoke name={marker}call:a{{[(" * 3000
    started = time.thread_time()
    whole = run(OutputFormat(calls=formats()[name]), [text])
    assert time.thread_time() - started < 5.0
    assert whole.content == text
    assert not whole.tool_calls


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ('{"a": "<think>x</think>"}', False, "", '{"a": "<think>x</think>"}'),
        ('<think>A</think>\n\n{"a": "b <think> c"}', False, "A", '{"a": "b <think> c"}'),
        ('A</think>"<think>"', True, "A", '"<think>"'),
    ],
)
def test_a_marker_after_content_is_text_where_a_grammar_holds(text: str, opened: bool, reasoning: str, content: str):
    for parts in cuts(text):
        parser = THINK.parser(opens_reasoning=opened, late_reasoning=False)
        total = Piece()
        for part in parts:
            total = total + parser.feed(part)
        assert total + parser.finish() == Piece(reasoning=reasoning, content=content)
