"""Texts between tags, sent as they come."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.output.calls.schema import one_line_less
from backend.output.calls.tag_texts import TextParts
from backend.output.calls.value_ends import ValueEnd
from tests import chosen
from tests.output.golden import TOOLS, format_named

END = "</p>"


@settings(max_examples=300 if chosen.thorough else 100)
@given(st.data())
def test_the_parts_add_up_to_the_value_and_none_is_taken_back(data: st.DataObject):
    text = data.draw(st.text('\n </p>a\u00e9"\\', max_size=12)).replace(END, "")
    trim = data.draw(st.sampled_from([str.strip, one_line_less, str]))
    whole = f"<k>{text}{END}"
    value = trim(whole[3 : whole.index(END)])
    points = sorted(data.draw(st.lists(st.integers(3, len(whole)), max_size=6)))
    parts, sent = TextParts(3, ValueEnd(END, 3), trim), ""
    for end in (*points, len(whole)):
        if parts.ended is None:
            sent += parts.take(whole[:end])
            assert value.startswith(json.loads(f'"{sent}"'))
    assert json.loads(f'"{sent}"') == value
    assert parts.ended == whole.index(END) + len(END)


@pytest.mark.parametrize(
    ("name", "head", "text", "tail"),
    [
        ("qwen3_coder", "<function=get_weather><parameter=city>\n", "a </b>\nc", "\n</parameter></function>"),
        ("glm47", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>", "a </b>\nc", "</arg_value></tool_call>"),
        (
            "muse_spark",
            '<atem:function_calls><atem:invoke name="get_weather"><atem:parameter name="city">',
            "a </b> c",
            "</atem:parameter></atem:invoke>",
        ),
    ],
)
def test_a_string_is_sent_character_by_character(name: str, head: str, text: str, tail: str):
    parser = format_named(name).parser(opens_reasoning=False, tools=TOOLS, calls_in_parts=True)
    lead = "to=user<|message|>" if name == "muse_spark" else ""
    sent: list[tuple[int, str]] = []
    for at, char in enumerate(lead + head + text + tail):
        sent += [(at, delta.arguments) for delta in parser.feed(char).tool_calls if delta.arguments]
    assert "".join(arguments for _, arguments in sent) == json.dumps({"city": text})
    inside = [arguments for at, arguments in sent if at < len(lead + head + text)]
    assert len(inside) >= 4
    assert "".join(inside).startswith('{"city": "a </b>')
