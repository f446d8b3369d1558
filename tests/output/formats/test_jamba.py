"""Jamba: a list of call objects between `<tool_calls>` markers; Apriel, and MiniMax M1 without the list."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<tool_calls>[{"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}]</tool_calls>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        'Two.\n<tool_calls>[\n    {"name": "now", "arguments": {}}, {"name": "get_weather",'
        ' "arguments": {"options": {"a": [1, null, true]}}}\n]\n</tool_calls>',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Two.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "f", "arguments": {"a": "]"}}\n</tool_calls> Ok',
        (("now", {}), ("f", {"a": "]"})),
        content="Ok",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_calls>[{"name": "now", "arguments": {}, "id": "c1"}]',
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_calls>[{"name": "now", "arguments": {}} and]</tool_calls><answer>x</answer>',
        (("now", {}),),
        content=" and]</tool_calls><answer>x</answer>".strip(),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<tool_calls>[now]</tool_calls>",
        content="<tool_calls>[now]</tool_calls>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("jamba", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("jamba", GOLDEN)
