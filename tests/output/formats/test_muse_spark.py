"""Muse Spark: messages with headers, calls as tags."""

import pytest

from backend.core.events import Piece
from tests.output.cutting import run
from tests.output.golden import Golden, check, check_damaged, format_named

GOLDEN = (
    Golden(
        "to=self<|message|>Hm.\n<|eom|><|start|>assistant to=get_weather<|message|><atem:function_calls>\n"
        '<atem:invoke name="get_weather">\n<atem:parameter name="city">Z\u00fcrich</atem:parameter>\n'
        '<atem:parameter name="days">2</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eom|>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        reasoning="Hm.",
    ),
    Golden(
        "to=commentary<|message|>I look.<|eom|><|start|>assistant to=now<|message|><atem:function_calls>"
        '<atem:invoke name="now"></atem:invoke><atem:invoke name="get_weather"><atem:parameter name="options">'
        '{"a": "\U0001f30d"}</atem:parameter></atem:invoke></atem:function_calls><|eom|><|start|>assistant to=user'
        "<|message|>Done.<|eot|>",
        (("now", {}), ("get_weather", {"options": {"a": "\U0001f30d"}})),
        content="I look.\n\nDone.",
    ),
    Golden(
        "to=user<|message|><atem:function_calls>none</atem:function_calls>",
        content="<atem:function_calls>none</atem:function_calls>",
        same_as_mlx_lm=False,
    ),
    Golden("Just text.", content="Just text."),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("muse_spark", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("muse_spark", GOLDEN)


@pytest.mark.parametrize("text", [" ", "a", "to", "assistant to"])
def test_text_that_only_begins_like_a_header_is_content(text: str):
    for parts in ([text], list(text)):
        assert run(format_named("muse_spark"), parts) == Piece(content=text)
