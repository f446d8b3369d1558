"""Llama 4: Python calls in a bare list where the answer begins, or JSON as Llama 3 writes it."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '[get_weather(city="Z\u00fcrich", days=2)]',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|python_start|>[now(), get_weather(options={"a": [1, None, True]})]<|python_end|>',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        same_as_mlx_lm=False,
    ),
    Golden(
        '[now(), get_weather(options={"a": [1, null, true]})] Done',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Done",
        same_as_mlx_lm=False,
    ),
    Golden(
        '{"name": "now", "parameters": {}}',
        (("now", {}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "[unknown(a=1)]",
        content="[unknown(a=1)]",
        same_as_mlx_lm=False,
    ),
    Golden(
        "[1] see below",
        content="[1] see below",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("llama4", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("llama4", GOLDEN)
