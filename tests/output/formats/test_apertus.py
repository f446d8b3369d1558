"""Apertus: a list of objects with one member, the function's arguments."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<|inner_prefix|>A.<|inner_suffix|><|tools_prefix|>[{"get_weather":'
        ' {"city": "Z\u00fcrich", "days": 2}}]<|tools_suffix|>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        reasoning="A.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|tools_prefix|>[{"now": {}}, {"get_weather": {"options": {"a": [1, null, true]}}}]<|tools_suffix|> Ok',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Ok",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|tools_prefix|>[{"now": 3}]<|tools_suffix|>',
        content='<|tools_prefix|>[{"now": 3}]<|tools_suffix|>',
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("apertus", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("apertus", GOLDEN)
