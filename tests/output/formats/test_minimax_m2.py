"""MiniMax M2: several invocations in one block."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Z\u00fcrich</parameter>\n'
        '<parameter name="days">2</parameter>\n<parameter name="detailed">false</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2, "detailed": False}),),
    ),
    Golden(
        '<think>A</think>B\n<minimax:tool_call>\n<invoke name="now">\n</invoke>\n<invoke name="get_weather">\n'
        '<parameter name="options">{"a": "\U0001f30d"}</parameter>\n</invoke>\n</minimax:tool_call>',
        (("now", {}), ("get_weather", {"options": {"a": "\U0001f30d"}})),
        content="B",
        reasoning="A",
    ),
    Golden(
        '<minimax:tool_call><invoke name="now"></invoke><invoke>x</invoke></minimax:tool_call>',
        (("now", {}),),
        content="<invoke>x</invoke></minimax:tool_call>",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<minimax:tool_call><invoke name="now"></invoke><invoke name=>x</invoke><invoke name="now"></invoke>'
        "</minimax:tool_call>",
        (("now", {}), ("now", {})),
        content="<invoke name=>x</invoke>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("minimax_m2", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("minimax_m2", GOLDEN)
