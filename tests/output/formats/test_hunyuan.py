"""Hunyuan A13B: a list of calls, and answers in tags."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<answer>\n<tool_calls>[{"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}, '
        '{"name": "now", "arguments": {}}]</tool_calls>\n</answer>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}), ("now", {})),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<think>\nHm.\n</think>\n<answer>\nIt is sunny.\n</answer>",
        content="It is sunny.",
        reasoning="Hm.",
        same_as_mlx_lm=False,
    ),
    Golden(
        'I look. <tool_calls>\n[\n{"name": "get_weather", "arguments": {"city": "</tool_calls>"}}\n]\n</tool_calls>',
        (("get_weather", {"city": "</tool_calls>"}),),
        content="I look.",
        same_as_mlx_lm=False,
    ),
    Golden("<tool_calls>[]</tool_calls>", content="<tool_calls>[]</tool_calls>", same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("hunyuan", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("hunyuan", GOLDEN)
