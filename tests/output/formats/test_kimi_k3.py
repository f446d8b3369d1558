"""Kimi K3: arguments that carry their types."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" '
        'type="string"<|sep|>12 \u00fc<|close|>argument<|sep|><|open|>argument key="days" type="integer"<|sep|>2'
        "<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
        (("get_weather", {"city": "12 \u00fc", "days": 2}),),
    ),
    Golden(
        'Hm.<|open|>tools<|sep|>\n<|open|>call tool="a&quot;b" index="1"<|sep|><|close|>call<|sep|>\n'
        '<|open|>call tool="get_weather" index="2"<|sep|><|open|>json type="object"<|sep|>{"city": "\U0001f30d"}'
        "<|close|>json<|sep|><|close|>call<|sep|>\n<|close|>tools<|sep|>",
        (('a"b', {}), ("get_weather", {"city": "\U0001f30d"})),
        content="Hm.",
    ),
    Golden(
        '<|open|>tools<|sep|><|open|>call index="1"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
        content='<|open|>tools<|sep|><|open|>call index="1"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("kimi_k3", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("kimi_k3", GOLDEN)
