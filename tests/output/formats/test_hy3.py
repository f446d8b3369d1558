"""Hy3 writes GLM's arguments behind a separator, in sections of calls."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<tool_calls>\n<tool_call>get_weather<tool_sep>\n<arg_key>city</arg_key>\n<arg_value>Z\u00fcrich</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n</tool_calls>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<think>A</think>B<tool_calls>\n<tool_call>now<tool_sep>\n</tool_call>\n<tool_call>get_weather<tool_sep>"
        '<arg_key>options</arg_key><arg_value>{"a": "\U0001f30d"}</arg_value><arg_key>city</arg_key>'
        "<arg_value>12</arg_value></tool_call>\n</tool_calls>",
        (("now", {}), ("get_weather", {"options": {"a": "\U0001f30d"}, "city": "12"})),
        content="B",
        reasoning="A",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<tool_calls><tool_call>now<tool_sep></tool_call><tool_call>no separator</tool_call></tool_calls>",
        (("now", {}),),
        content="<tool_call>no separator</tool_call>",
        same_as_mlx_lm=False,
    ),
    Golden(
        "It writes <tool_calls> and <tool_sep> itself.",
        content="It writes <tool_calls> and <tool_sep> itself.",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("hy3", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("hy3", GOLDEN)
