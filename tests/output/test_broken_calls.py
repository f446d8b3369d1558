"""What is found behind a call that breaks off after its beginning was sent."""

import time

import pytest

from tests.output.cutting import calls_in, cuts, run
from tests.output.golden import TOOLS, check_runnable, format_named

BROKEN = '<tool_call>{"name": "f", "arguments": {"a": "x}}</tool_call>\n'
CALL = '<tool_call>{"name": "g", "arguments": {"b": 1}}</tool_call>'


@pytest.mark.parametrize("text", [BROKEN + CALL, BROKEN + CALL + " Done", "<think>Hm. " + BROKEN + CALL + "</think>."])
def test_a_call_within_what_was_sent_of_another_is_found_as_predict_finds_it(text: str):
    whole = run(format_named("json_tools"), [text])
    assert calls_in(whole) == [("g", '{"b": 1}')]
    parts = run(format_named("json_tools"), [text], in_parts=True)
    assert [name for name, _ in calls_in(parts)] == ["f", "g"]
    check_runnable(parts, whole)
    for pieces in cuts(text, pairs_below=0):
        assert run(format_named("json_tools"), pieces, in_parts=True) == parts


def test_text_goes_on_where_it_broke_in_the_section_where_the_call_stood():
    text = '<think>Hm. <tool_call>{"name": "f", "arguments": {"a": 1 oops} more</think>Hi'
    parts = run(format_named("json_tools"), [text], in_parts=True)
    assert calls_in(parts) == [("f", '{"a": 1')]
    assert (parts.reasoning, parts.content) == ("Hm. oops} more", "Hi")


def test_what_was_sent_of_a_call_counts_as_said():
    """A bare list is a call only where nothing else has been said, shown or not."""
    text = '{"name": "now", "parameters": {"a": "</think>x y" z} <|python_tag|>{"name": "now", "parameters": {}}'
    tools = [{"function": {"name": "now"}}]
    whole = run(format_named("llama3_json"), [text], tools=tools)
    parts = run(format_named("llama3_json"), [text], tools=tools, in_parts=True)
    check_runnable(parts, whole)
    assert len(calls_in(whole)) == 1


BLANKS = [
    ("json_tools", "<tool_call>{"),
    ("glm47", "<tool_call>get_weather\n<arg_key>"),
    ("minimax_m2", "<minimax:tool_call><invoke name="),
    ("minimax_m2", '<minimax:tool_call><invoke name="get_weather"><parameter name='),
    ("minicpm5", "<function name="),
    ("minicpm5", '<function name="get_weather"><param name='),
]


@pytest.mark.parametrize(("name", "head"), BLANKS)
def test_blanks_where_a_name_should_stand_are_looked_at_once_for_each_token(name: str, head: str):
    """In powers of their number, once for each token, they took seconds."""
    text = head + " " * 900
    begun = time.process_time()
    whole = run(format_named(name), list(text), tools=TOOLS)
    assert time.process_time() - begun < 0.6
    assert (whole.content.strip(), whole.tool_calls) == (head, ())


@pytest.mark.parametrize(("name", "opening"), [("minimax_m2", "<parameter"), ("minicpm5", "<param")])
@pytest.mark.parametrize("key", ['"city"', "'city'", "city", " city ", ' "city" '])
def test_a_name_has_quotes_of_either_kind_or_none(name: str, opening: str, key: str):
    begin, end = ("<minimax:tool_call>", "</minimax:tool_call>") if name == "minimax_m2" else ("", "")
    start, close = ("<invoke", "</invoke>") if begin else ("<function", "</function>")
    text = f'{begin}{start} name="get_weather">{opening} name={key}>Bern</{opening[1:]}>{close}{end}'
    for parts in ([text], list(text)):
        whole = run(format_named(name), parts, tools=TOOLS, in_parts=True)
        assert calls_in(whole) == [("get_weather", '{"city": "Bern"}')]
