"""gpt-oss: harmony channels."""

import pytest

from tests.output.cutting import calls_in, run
from tests.output.golden import Golden, check, check_damaged, format_named

CALL = (
    "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Z\u00fcrich \U0001f30d"}<|call|>'
)
GOLDEN = (
    Golden(CALL, (("get_weather", {"city": "Z\u00fcrich \U0001f30d"}),), reasoning="I look.", same_as_mlx_lm=False),
    Golden(
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Gr\u00fc\u00dfe.<|return|>",
        content="Gr\u00fc\u00dfe.",
        reasoning="One.\n\nTwo.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|channel|>commentary<|message|>First the time.<|end|><|start|>assistant to=functions.now"
        "<|channel|>commentary json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Done.",
        (("now", {}),),
        content="First the time.\n\nDone.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|channel|>commentary to=functions.now<|message|>{broken<|end|>",
        content="<|channel|>commentary to=functions.now<|message|>{broken",
        same_as_mlx_lm=False,
    ),
    Golden("Just text.", content="Just text.", same_as_mlx_lm=False),
)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("harmony", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("harmony", GOLDEN)


def test_a_call_whose_end_token_ended_the_answer_is_complete():
    whole = run(format_named("harmony"), [CALL.removesuffix("<|call|>")])
    assert calls_in(whole) == [("get_weather", '{"city": "Z\u00fcrich \U0001f30d"}')]


def test_an_answer_cut_off_in_a_header_shows_no_markup():
    whole = run(format_named("harmony"), ["<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>fin"])
    assert (whole.content, whole.reasoning) == ("", "A")


def test_without_calls_the_channels_are_still_told_apart():
    parser = format_named("harmony").parser(opens_reasoning=False, parse_tools=False)
    piece = parser.feed(CALL) + parser.finish()
    assert (piece.reasoning, piece.content, piece.tool_calls) == ("I look.", '{"city": "Z\u00fcrich \U0001f30d"}', ())
