"""gpt-oss: harmony channels."""

import pytest

from backend.core.events import Piece
from tests.output.cutting import calls_in, run
from tests.output.golden import Golden, check, check_damaged, format_named

CALL = (
    "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Z\u00fcrich \U0001f30d"}<|call|>'
)
# OpenAI's library reads the same of these; it is asked in tests/output/harmony.
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
    # The prompt ends in the role, so that the first message's recipient stands before all markers.
    Golden(
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Bern"}<|call|>',
        (("get_weather", {"city": "Bern"}),),
        same_as_mlx_lm=False,
    ),
    Golden(" to=functions.now <|constrain|>json<|message|>{}", (("now", {}),), same_as_mlx_lm=False),
    # `<|call|>` ends the answer and is no text then.
    Golden("<|channel|>commentary to=functions.now<|message|>", (("now", {}),), same_as_mlx_lm=False),
    Golden("<|channel|>commentary functions.now json<|message|>{}<|call|>", (("now", {}),), same_as_mlx_lm=False),
    Golden(
        '<|channel|>commentary to=functions.files.read<|constrain|>json<|message|>{"days": 1}<|end|>'
        '<|start|>assistant<|channel|>analysis to=browser.search code<|message|> {"city": "Bern"} <|call|>',
        (("files.read", {"days": 1}), ("browser.search", {"city": "Bern"})),
        same_as_mlx_lm=False,
    ),
    Golden("<|message|>Hi.<|return|>", content="Hi.", same_as_mlx_lm=False),
    Golden(" to=user<|channel|>final<|message|>Hi.", content="Hi.", same_as_mlx_lm=False),
    Golden("assistant<|channel|>final to=all json<|message|>[]<|end|>", content="[]", same_as_mlx_lm=False),
    Golden(
        "<|channel|>final<|message|>One. \n<|end|><|start|>assistant<|channel|>final<|message|>\n  Two.<|return|>",
        content="One.\n\nTwo.",
        same_as_mlx_lm=False,
    ),
    # Who goes on after a call makes its result up.
    Golden(
        "<|channel|>commentary to=functions.now<|message|>{}<|end|><|start|>functions.now to=assistant<|channel|>"
        "commentary<|message|>12:00<|end|><|start|>user<|message|>Hm?<|end|><|start|>assistant<|channel|>final"
        "<|message|>Noon.<|return|>",
        (("now", {}),),
        content="Noon.",
        reasoning="12:00\n\nHm?",
        same_as_mlx_lm=False,
    ),
)
# It refuses these, or reads something else: tests/output/harmony says what, docs/formats.md why.
OURS = (
    Golden("Just text.", content="Just text.", same_as_mlx_lm=False),
    Golden(" to=x or not?", content=" to=x or not?", same_as_mlx_lm=False),
    Golden(
        "<|channel|>final<|message|>A <|start|> token begins a message, <|channel|>analysis<|end|>",
        content="A <|start|> token begins a message, <|channel|>analysis",
        same_as_mlx_lm=False,
    ),
    Golden("<|channel|>final Hi.<|end|>", content="<|channel|>final Hi.", same_as_mlx_lm=False),
    Golden(
        "<|channel|>commentary to=functions.now<|message|>{broken<|end|>",
        content="<|channel|>commentary to=functions.now<|message|>{broken",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|channel|>final<|message|>Hi.<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>print(1)"
        "<|call|>",
        content="Hi.",
        reasoning="<|start|>assistant<|channel|>analysis to=python code<|message|>print(1)",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|channel|>commentary to=functions.now<|message|>{'days': 1}<|call|>",
        (("now", {"days": 1}),),
        same_as_mlx_lm=False,
    ),
    Golden(
        '<|channel|>commentary to=functions.now<|message|>{"city": "<|end|>"} Hi.<|call|>',
        (("now", {"city": "<|end|>"}),),
        content="Hi.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|channel|>commentary to=functions.now <|constrain|> json<|message|>{}", (("now", {}),), same_as_mlx_lm=False
    ),
    Golden("<|channel|>commentary <|constrain|>json<|message|>{}<|end|>", content="{}", same_as_mlx_lm=False),
    Golden("<|channel|>final json<|message|>{}<|return|>", content="{}", same_as_mlx_lm=False),
    Golden("<|channel|>commentaryto=functions.now<|message|>{}", (("now", {}),), same_as_mlx_lm=False),
    Golden(
        "<|channel|>analysis<|message|>One.<|end|><|channel|>analysis<|message|>Two.<|end|><|start|>assistantto="
        "functions.now<|channel|>commentary<|message|>{}<|call|>",
        (("now", {}),),
        reasoning="One.\n\nTwo.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Hi.",
        content="Hi.",
        reasoning="Hm.",
        same_as_mlx_lm=False,
    ),
    Golden(
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>Hi.",
        content="Hi.",
        reasoning="Hm.",
        same_as_mlx_lm=False,
    ),
)


@pytest.mark.parametrize("golden", [*GOLDEN, *OURS])
def test_golden_texts_parse_the_same_at_every_cut(golden: Golden):
    check("harmony", golden)


def test_damaged_texts_stream_as_they_parse_at_once():
    check_damaged("harmony", (*GOLDEN, *OURS))


def test_a_call_whose_end_token_ended_the_answer_is_complete():
    whole = run(format_named("harmony"), [CALL.removesuffix("<|call|>")])
    assert calls_in(whole) == [("get_weather", '{"city": "Z\u00fcrich \U0001f30d"}')]


@pytest.mark.parametrize("blank", ["", " "])
def test_a_call_that_the_limit_cut_off_before_its_arguments_is_none(blank: str):
    text = "<|channel|>commentary to=functions.now<|message|>" + blank
    assert calls_in(run(format_named("harmony"), [text])) == [("now", "{}")]
    assert run(format_named("harmony"), [text], cut=True) == Piece()
    assert run(format_named("harmony"), list(text), cut=True, in_parts=True) == Piece()


def test_an_answer_cut_off_in_a_header_shows_no_markup():
    whole = run(format_named("harmony"), ["<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>fin"])
    assert (whole.content, whole.reasoning) == ("", "A")


def test_an_answer_cut_off_in_the_header_that_the_prompt_began_shows_no_markup():
    assert run(format_named("harmony"), [" to=functions.get"], cut=True) == Piece()


@pytest.mark.parametrize("text", [" ", "assistant", " to", "to=x", "\n  Hi"])
def test_text_that_only_begins_like_a_header_is_content(text: str):
    for parts in ([text], list(text)):
        assert run(format_named("harmony"), parts) == Piece(content=text)


def test_arguments_in_the_analysis_channel_that_break_off_go_on_as_reasoning():
    text = '<|channel|>analysis to=browser.open<|message|>{"city": "Bern" no'
    assert run(format_named("harmony"), [text]) == Piece(reasoning=text)
    sent = run(format_named("harmony"), [text], in_parts=True)
    assert (sent.content, sent.reasoning, calls_in(sent)) == ("", "no", [("browser.open", '{"city": "Bern"')])


def test_a_prompt_that_ends_in_the_analysis_goes_on_with_reasoning():
    golden = Golden(
        " to=me<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>",
        content="Hi.",
        reasoning="to=me",
        same_as_mlx_lm=False,
        opens_reasoning=True,
    )
    check("harmony", golden)


def test_without_calls_the_channels_are_still_told_apart():
    parser = format_named("harmony").parser(opens_reasoning=False, parse_tools=False)
    code = "<|start|>assistant<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    piece = parser.feed(CALL + code) + parser.finish()
    assert (piece.reasoning, piece.content, piece.tool_calls) == (
        "I look.\n\nprint(1)",
        '{"city": "Z\u00fcrich \U0001f30d"}',
        (),
    )
