"""FunctionGemma: bare keys, strings between `<escape>`."""

import pytest

from tests.output.golden import Golden, check, check_damaged

GOLDEN = (
    Golden(
        "<start_function_call>call:get_weather{city:<escape>Z\u00fcrich, {x}<escape>,days:2}<end_function_call>",
        (("get_weather", {"city": "Z\u00fcrich, {x}", "days": 2}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<start_function_call>call:get_weather{city:<escape>Z\u00fcrich<escape>,days:2,de"
        "tailed:true}<end_function_call><start_function_call>call:now{}<end_function_call>",
        (("get_weather", {"city": "Z\u00fcrich", "days": 2, "detailed": True}), ("now", {})),
    ),
    Golden(
        "Hm. <start_function_call>call:f{a:{b:[1,<escape>\U0001f30d<escape>],c:null}}<end_function_call>",
        (("f", {"a": {"b": [1, "\U0001f30d"], "c": None}}),),
        content="Hm.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<start_function_call>call:f{a:<escape><end_function_call><escape>}<end_function_call>",
        (("f", {"a": "<end_function_call>"}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        "<start_function_call>call:f(a)<end_function_call>",
        content="<start_function_call>call:f(a)<end_function_call>",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut_and_as_mlx_lm_does(golden: Golden):
    check("function_gemma", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("function_gemma", GOLDEN)
