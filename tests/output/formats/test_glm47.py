"""GLM: a name, then keys and values between tags."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Z\u00fcrich</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
    ),
    Golden(
        "Hm.\n<tool_call>get_weather<arg_key>places</arg_key><arg_value>['a', 'b']</arg_value>"
        "<arg_key>city</arg_key><arg_value>12</arg_value></tool_call>"
        "<tool_call>other<arg_key>x</arg_key><arg_value>007</arg_value></tool_call>",
        (("get_weather", {"places": ["a", "b"], "city": "12"}), ("other", {"x": "007"})),
        content="Hm.",
    ),
    Golden(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "\U0001f30d"}}</tool_call>',
        (("get_weather", {"city": "\U0001f30d"}),),
    ),
    Golden(
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Bern\n<arg_key>days</arg_key>\n<arg_value>3</tool_call>"
        "<tool_call>get_weather<arg_key>options</arg_key><arg_value>{}</tool_call>",
        (("get_weather", {"city": "Bern", "days": 3}), ("get_weather", {"options": {}})),
        same_as_mlx_lm=False,
    ),
    Golden("<tool_call>now</tool_call>", (("now", {}),), same_as_mlx_lm=False),
    Golden(
        "<tool_call>is a tag, and <tool_call>now\nx</tool_call> is no call",
        content="<tool_call>is a tag, and <tool_call>now\nx</tool_call> is no call",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("glm47", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("glm47", GOLDEN)
