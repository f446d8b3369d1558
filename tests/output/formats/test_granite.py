"""Granite 3: a list of call objects behind `<|tool_call|>`, or `<tool_call>` as 3.0 writes it."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}]',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<tool_call>[{"name": "now", "arguments": {}}, {"name": "get_weather",'
        ' "arguments": {"options": {"a": [1, null, true]}}}]',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        same_as_mlx_lm=False,
    ),
    Golden(
        'Hm. <|tool_call|> {"name": "now", "arguments": {}} Done.',
        (("now", {}),),
        content="Hm.  Done.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|tool_call|>now()",
        content="<|tool_call|>now()",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("granite", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("granite", GOLDEN)
