"""Kimi K2: a section of calls with ids of their own."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Z\u00fcrich"}<|tool_call_end|><|tool_calls_section_end|>',
        (("get_weather", {"city": "Z\u00fcrich"}),),
    ),
    Golden(
        "Hm. <|tool_calls_section_begin|> <|tool_call_begin|>functions.now:0 <|tool_call_argument_begin|> {} "
        "<|tool_call_end|> <|tool_call_begin|>get_weather:1<|tool_call_argument_begin|>"
        '{"days": 2, "city": "\U0001f30d"}<|tool_call_end|><|tool_calls_section_end|>',
        (("now", {}), ("get_weather", {"days": 2, "city": "\U0001f30d"})),
        content="Hm.",
    ),
    Golden(
        "<|tool_calls_section_begin|><|tool_call_begin|>now<|tool_call_end|><|tool_calls_section_end|>",
        content="<|tool_calls_section_begin|><|tool_call_begin|>now<|tool_call_end|><|tool_calls_section_end|>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("kimi_k2", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("kimi_k2", GOLDEN)
