"""Nemotron: a list of call objects between `<TOOLCALL>` markers."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<think>\nA.\n</think>\n\n<TOOLCALL>[{"name": "get_weather", "arguments":'
        ' {"city": "Z\u00fcrich", "days": 2}}]</TOOLCALL>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        reasoning="A.",
        same_as_mlx_lm=False,
    ),
    Golden(
        'Two. <TOOLCALL>[{"name": "now", "arguments": {}}, {"name": "get_weather",'
        ' "arguments": {"options": {"a": [1, null, true]}}}]</TOOLCALL>',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Two.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<TOOLCALL>[{"name": "now"}]',
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<TOOLCALL>[]</TOOLCALL>",
        content="<TOOLCALL>[]</TOOLCALL>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("nemotron", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("nemotron", GOLDEN)
