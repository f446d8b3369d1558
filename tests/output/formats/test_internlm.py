"""InternLM: a call object behind two markers, which may have a space between them."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        'Hm.<|action_start|><|plugin|>\n{"name": "get_weather", "parameters":'
        ' {"city": "Z\u00fcrich", "days": 2}}<|action_end|>',
        (("get_weather", {"city": "Z\u00fcrich", "days": 2}),),
        content="Hm.",
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|action_start|> <|plugin|>\n{"name": "now", "arguments": {}}<|action_end|>\nDone',
        (("now", {}),),
        content="Done",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|action_start|><|interpreter|>\nprint(1)<|action_end|>",
        content="<|action_start|><|interpreter|>\nprint(1)<|action_end|>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("internlm", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("internlm", GOLDEN)
