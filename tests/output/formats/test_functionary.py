"""Functionary 3.1: JSON arguments in a tag that names the function."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<function=get_weather>{"city": "Z\u00fcrich", "days": 2}</function>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        'Two. <function=now>{}</function><function=get_weather>{"options": {"a": [1, null, true]}}</function>',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Two.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function=now></function>",
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function=f>a</function>",
        content="<function=f>a</function>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("functionary", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("functionary", GOLDEN)
