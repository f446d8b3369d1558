"""What is found behind a call that breaks off after its beginning was sent."""

import pytest

from tests.output.cutting import calls_in, cuts, run
from tests.output.golden import check_runnable, format_named

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
