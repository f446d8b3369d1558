"""The harmony format as OpenAI's own library reads and writes it, beside our parser.

`make harmony` gets the library and its vocabulary; without them all of this is skipped.
"""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import chosen
from tests.output.cutting import run
from tests.output.formats.test_harmony import GOLDEN, OURS
from tests.output.golden import Golden, format_named
from tests.output.harmony.reference import LIBRARY, VOCABULARY, Meaning, Message, Reference, Refused, meaning, ours
from tests.output.harmony.texts import MARKERS, answers, turns

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (LIBRARY.exists() and VOCABULARY.exists()), reason="needs OpenAI's harmony library: run `make harmony`"
    ),
]

FORMAT = format_named("harmony")
EXAMPLES = settings(max_examples=400 if chosen.thorough else 100, deadline=None)
HISTORY: list[Message] = [
    {"role": "system", "content": [{"type": "system_content"}]},
    {"role": "developer", "content": [{"type": "developer_content", "instructions": "Be kind."}]},
    {"role": "user", "content": "Hello."},
]
# Channel, recipient and text of each of their messages, of those golden texts that ours means otherwise to read; None
# where they refuse the text.
F = "functions.now"
THEIRS: tuple[list[tuple[str, str | None, str]] | None, ...] = (
    None,
    None,
    [("final", None, "A <|start|> token begins a message, <|channel|>analysis")],
    None,
    [("commentary", F, "{broken")],
    [("final", None, "Hi."), ("analysis", "python", "print(1)")],
    [("commentary", F, "{'days': 1}")],
    None,
    None,
    [("commentary", "<|constrain|>json", "{}")],
    [("final", "json", "{}")],
    [("commentaryto=functions.now", None, "{}")],
    None,
    [("analysis", None, "Hm.<|start|>assistant<|channel|>final<|message|>Hi.")],
    None,
)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_texts_mean_the_same_to_them(reference: Reference, golden: Golden) -> None:
    expected = Meaning(golden.reasoning, golden.content, golden.calls)
    assert meaning(reference.parsed(reference.tokens(golden.text))) == expected


@pytest.mark.parametrize(("golden", "theirs"), list(zip(OURS, THEIRS, strict=True)))
def test_the_other_golden_texts_are_refused_or_mean_something_else_to_them(
    reference: Reference, golden: Golden, theirs: list[tuple[str, str | None, str]] | None
) -> None:
    tokens = reference.tokens(golden.text)
    if theirs is None:
        with pytest.raises(Refused):
            reference.parsed(tokens)
    else:
        found = [(each["channel"], each.get("recipient"), each["content"]) for each in reference.parsed(tokens)]
        assert found == theirs


@EXAMPLES
@given(text=answers())
def test_answers_mean_the_same_to_both(reference: Reference, text: str) -> None:
    tokens = reference.tokens(text)
    expected = meaning(reference.parsed(tokens))
    assert ours(run(FORMAT, [text])) == expected
    assert ours(run(FORMAT, reference.pieces(tokens), in_parts=True)) == expected
    named = "<|start|>assistant" + text
    assert meaning(reference.parsed(reference.tokens(named), role=None)) == expected
    assert ours(run(FORMAT, [named])) == expected


@EXAMPLES
@given(text=answers())
def test_without_calls_answers_mean_the_same_to_both(reference: Reference, text: str) -> None:
    parser = FORMAT.parser(opens_reasoning=False, parse_tools=False)
    found = parser.feed(text) + parser.finish()
    assert ours(found) == meaning(reference.parsed(reference.tokens(text)), with_calls=False)


@EXAMPLES
@given(text=answers(), data=st.data())
def test_answers_that_a_limit_cuts_off_mean_the_same_to_both(
    reference: Reference, text: str, data: st.DataObject
) -> None:
    whole = reference.tokens(text)
    tokens = whole[: data.draw(st.integers(0, len(whole)))]
    text = reference.text(tokens)
    # What may be half a marker is one from four characters on; a token cannot be half of one.
    assume(not text or len(text.strip()) > 3)
    assume(not any(text.endswith(marker[:length]) for marker in MARKERS for length in range(2, len(marker))))
    assert ours(run(FORMAT, [text], cut=True)) == meaning(reference.streamed(tokens))


@EXAMPLES
@given(turn=turns())
def test_what_their_renderer_writes_is_read_as_it_was_meant(reference: Reference, turn: list[Message]) -> None:
    text = reference.answer(HISTORY, turn)
    assert ours(run(FORMAT, [text])) == meaning(turn)


def test_a_rendered_answer_begins_where_the_prompt_ends(reference: Reference) -> None:
    call = {"role": "assistant", "channel": "commentary", "recipient": F, "content_type": "json", "content": "{}"}
    assert reference.answer(HISTORY, [call]) == " to=functions.now<|channel|>commentary json<|message|>{}<|call|>"
