"""Hermes and Qwen: JSON between `<tool_call>` markers."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}\n</tool_call>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
    ),
    Golden(
        '<think>\nLet me see.\n</think>\n\nI look.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"options": {"a": [1, null, true]}}}\n</tool_call>',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="I look.",
        reasoning="Let me see.",
    ),
    Golden('<tool_call>{"name": "now"}</tool_call>', (("now", {}),), same_as_mlx_lm=False),
    Golden(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call> \\"q\\" \U0001f30d"}}</tool_call>!',
        (("get_weather", {"city": '</tool_call> "q" \U0001f30d'}),),
        content="!",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_call>{"name": "now", "arguments": {bad}}</tool_call>',
        content='<tool_call>{"name": "now", "arguments": {bad}}</tool_call>',
        same_as_mlx_lm=False,
    ),
    Golden(
        'The tag <tool_call> opens one.\n<tool_call>{"name": "now", "arguments": "{}"}</tool_call>',
        (("now", {}),),
        content="The tag <tool_call> opens one.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "\\ud800"}}</tool_call>',
        (("get_weather", {"city": "\ud800"}),),
    ),
    Golden(
        '<think>I could <tool_call> now.</think><tool_call>{"name": "now", "arguments": {}}',
        (("now", {}),),
        reasoning="I could <tool_call> now.",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("json_tools", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("json_tools", GOLDEN)
