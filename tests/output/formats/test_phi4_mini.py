"""Phi-4-mini: call objects between `<|tool_call|>` markers, or a list behind `functools`."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}]<|/tool_call|>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|tool_call|>{"name": "now", "arguments": {}}<|/tool_call|><|tool_call|>{"name":'
        ' "f", "parameters": {"a": 1}}<|/tool_call|>',
        (("now", {}), ("f", {"a": 1})),
        same_as_mlx_lm=False,
    ),
    Golden(
        'functools[{"name": "now", "arguments": {}}, {"name": "get_weather",'
        ' "arguments": {"options": {"a": [1, null, true]}}}]',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        same_as_mlx_lm=False,
    ),
    Golden(
        "I use functools in Python.",
        content="I use functools in Python.",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("phi4_mini", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("phi4_mini", GOLDEN)
