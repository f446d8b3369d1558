"""Ernie 4.5: call objects between `<tool_call>` markers, answers in `<response>` tags."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<think>A.</think>\n\n\n<tool_call>\n{"name": "get_weather", "arguments":'
        ' {"city": "Z\u00fcrich", "days": 2}}\n</tool_call>\n',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        reasoning="A.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<think>\nA.\n</think>\n\n<response>\nB.\n</response>\n",
        content="B.",
        reasoning="A.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_call>\n{"name": "now"}\n</tool_call>\n<tool_call>\n{"name":'
        ' "f", "arguments": {"a": null}}\n</tool_call>',
        (("now", {}), ("f", {"a": None})),
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("ernie45", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("ernie45", GOLDEN)
