"""Olmo 3: Python calls, one a line."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<function_calls>\nget_weather(city="Z\u00fcrich", days=2)\n</function_calls>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        'Two.\n<function_calls>\nnow()\nget_weather(options={"a": [1, null, true]})\n</function_calls>\nOk',
        (("now", {}), ("get_weather", {"options": {"a": [1, None, True]}})),
        content="Two.\n\nOk",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function_calls>get_weather(city='a, \"b\")', days=-1)",
        (("get_weather", {"city": 'a, "b")', "days": -1}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<function_calls>\nprint 1\n</function_calls>",
        content="<function_calls>\nprint 1\n</function_calls>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("olmo3", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("olmo3", GOLDEN)
