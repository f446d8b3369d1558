"""Gemma 4: bare keys, strings between `<|"|>`."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<|tool_call>call:get_weather{city:<|"|>Z\u00fcrich, {x}<|"|>,days:2}<tool_call|>',
        (("get_weather", {"city": "Z\u00fcrich, {x}", "days": 2}),),
    ),
    Golden(
        '<|tool_call>call:get_weather{city:<|"|>Z\u00fcrich<|"|>,days:'
        "2,detailed:true}<tool_call|><|tool_call>call:now{}<tool_call|>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2, "detailed": True}), ("now", {})),
    ),
    Golden(
        'Hm. <|tool_call>call:f{a:{b:[1,<|"|>\U0001f30d<|"|>],c:null}}<tool_call|>',
        (("f", {"a": {"b": [1, "\U0001f30d"], "c": None}}),),
        content="Hm.",
    ),
    Golden(
        '<|tool_call>call:f{a:<|"|><tool_call|><|"|>}<tool_call|>',
        (("f", {"a": "<tool_call|>"}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|tool_call>call:f{first name:<|"|>x<|"|>,of:{last name:1},"to  do":2}<tool_call|>',
        (("f", {"first name": "x", "of": {"last name": 1}, "to  do": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden("<|tool_call>call:f(a)<tool_call|>", content="<|tool_call>call:f(a)<tool_call|>", same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("gemma4", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("gemma4", GOLDEN)
