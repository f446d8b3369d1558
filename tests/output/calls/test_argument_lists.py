"""Calls as programs write them: where values end, and when each is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.output.calls.argument_lists import CallSyntax, ValueExtent
from backend.output.calls.python_calls import SYNTAX
from backend.output.formats.gemma4 import call_syntax
from tests.output.cutting import calls_in, cuts, run
from tests.output.golden import format_named

GEMMA = call_syntax('<|"|>')


@pytest.mark.parametrize(
    ("syntax", "text", "value"),
    [
        (SYNTAX, "3, b=4)", "3"),
        (SYNTAX, "'it\\'s, ) ' )", "'it\\'s, ) ' "),
        (SYNTAX, '"""a")\n, """)', '"""a")\n, """'),
        (SYNTAX, '"")', '""'),
        (SYNTAX, "[1, (2, 3), {'a': ']'}], x", "[1, (2, 3), {'a': ']'}]"),
        (SYNTAX, " None)", " None"),
        (GEMMA, '<|"|>a, "b"} <|"|>}', '<|"|>a, "b"} <|"|>'),
        (GEMMA, "5 o'clock (or so), b", "5 o'clock (or so)"),
        (GEMMA, '6" pipe}', '6" pipe'),
        (GEMMA, '["a]", {b:<|"|>}<|"|>, c:"}"}]}', '["a]", {b:<|"|>}<|"|>, c:"}"}]'),
    ],
)
def test_a_value_ends_at_the_comma_or_bracket_behind_it(syntax: CallSyntax, text: str, value: str):
    for parts in cuts(text):
        extent, seen, end = ValueExtent(syntax, 0), "", None
        for part in parts:
            seen += part
            end = end if end is not None else extent.find_end(seen)
        assert end == len(value)


@pytest.mark.parametrize("text", ["[1)", "{]", "[" * 65, "]"])
def test_brackets_that_do_not_match_are_no_value(text: str):
    with pytest.raises(ValueError, match="bracket|deep"):
        ValueExtent(SYNTAX, 0).find_end(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_what_python_prints_ends_where_it_was_printed(value: object):
    text = repr(value)
    assert ValueExtent(SYNTAX, 0).find_end(text + ")") == len(text)


@pytest.mark.parametrize(
    ("name", "call", "ends"),
    [
        ("pythonic", "<|tool_call_start|>[f(a='x, y', b=[1, 2], c=3)]<|tool_call_end|>", ["', ", "], ", "3)"]),
        ("gemma4", '<|tool_call>call:f{a:<|"|>x, y<|"|>,b:[1,2],c:3}<tool_call|>', ["|>,", "],", "3}"]),
    ],
)
def test_an_argument_is_sent_as_soon_as_what_ends_it_is_there(name: str, call: str, ends: list[str]):
    parser = format_named(name).parser(opens_reasoning=False, calls_in_parts=True)
    sent: list[tuple[int, str]] = []
    for at, char in enumerate(call):
        sent += [(at, delta.arguments) for delta in parser.feed(char).tool_calls if delta.arguments]
    values = ['{"a": "x, y"', ', "b": [1, 2]', ', "c": 3', "}"]
    assert [text for _, text in sent] == values
    marks = [call.index(text) + len(text.rstrip()) - 1 for text in ends]
    assert [at for at, _ in sent] == [*marks, marks[-1]]


@pytest.mark.parametrize(
    ("name", "text", "begun", "rest"),
    [
        ("pythonic", "<|tool_call_start|>[f(a=1, b=oops)]", '{"a": 1', " b=oops)]"),
        ("gemma4", "<|tool_call>call:f{a:1,b:{c]}}", '{"a": 1', "b:{c]}}"),
    ],
)
def test_a_call_that_breaks_off_goes_on_as_text_where_it_broke(name: str, text: str, begun: str, rest: str):
    for parts in cuts(text, pairs_below=0):
        assert run(format_named(name), parts).content == text
        sent = run(format_named(name), parts, in_parts=True)
        assert calls_in(sent) == [("f", begun)]
        assert sent.content == rest.strip()
