"""LongCat writes GLM's format with prefixed tags."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Z\u00fcrich</longcat_arg_value>\n"
        "<longcat_arg_key>days</longcat_arg_key>\n<longcat_arg_value>2</longcat_arg_value>\n</longcat_tool_call>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
    ),
    Golden(
        "Hm.\n<longcat_tool_call>get_weather<longcat_arg_key>places</longcat_arg_key>"
        "<longcat_arg_value>['a', 'b']</longcat_arg_value>"
        "<longcat_arg_key>city</longcat_arg_key><longcat_arg_value>12</longcat_arg_value></longcat_tool_call>"
        "<longcat_tool_call>other<longcat_arg_key>x</longcat_arg_key>"
        "<longcat_arg_value>007</longcat_arg_value></longcat_tool_call>",
        (("get_weather", {"places": ["a", "b"], "city": "12"}), ("other", {"x": "007"})),
        content="Hm.",
    ),
    Golden(
        '<longcat_tool_call>{"name": "get_weather", "arguments": {"city": "\U0001f30d"}}</longcat_tool_call>',
        (("get_weather", {"city": "\U0001f30d"}),),
    ),
    Golden("<longcat_tool_call>now</longcat_tool_call>", (("now", {}),), same_as_mlx_lm=False),
    Golden(
        "<longcat_tool_call>is a tag, and <longcat_tool_call>now\nx</longcat_tool_call> is no call",
        content="<longcat_tool_call>is a tag, and <longcat_tool_call>now\nx</longcat_tool_call> is no call",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("longcat", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("longcat", GOLDEN)
