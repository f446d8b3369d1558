"""Constraints that wait: for the end of reasoning, for the start of a call."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.constraint import Constraint
from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.waiting import Activation, TextWatch
from tests.grammar.vocabularies import ADDED, BYTES, CONTROL, EOS, allowed, token, walk

DIGITS = Grammar(kind="regex", text="[0-9]{2}")
BODY = Grammar(kind="regex", text=r"\n\{[0-9]*\}\n</tool_call>")
THINKS = Activation(reasoning_end=b"</think>", in_reasoning=True)
MAY_THINK = Activation(reasoning_end=b"</think>", reasoning_start_ids=(token(b"<think>"),))
CALLS = Activation(triggers=(b"<tool_call>",))


def spelled(text: str) -> list[int]:
    return list(text.encode())


def advance(constraint: Constraint, tokens: list[int]) -> None:
    assert walk(constraint, tokens) == len(tokens)


@pytest.mark.parametrize("end", [[token(b"</think>")], spelled("</think>"), [*spelled("</think"), token(b">\n")]])
def test_a_grammar_begins_when_the_reasoning_ends(compiler: GrammarCompiler, end) -> None:
    constraint = compiler.compile(DIGITS).constraint(THINKS)
    assert constraint.mask() is None
    advance(constraint, [*spelled("so <think> 12 </thin k>"), token(b"hello"), *end])
    assert allowed(constraint.mask()) == {*spelled("0123456789"), ord("\n"), token(b"\n\n")}
    advance(constraint, spelled("42"))
    assert allowed(constraint.mask()) == {EOS}
    assert constraint.finished


def test_line_breaks_may_stand_between_reasoning_and_grammar_but_not_for_long(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(DIGITS).constraint(THINKS)
    advance(constraint, [token(b"</think>"), token(b"\n\n"), ord("\n")])
    assert allowed(constraint.mask()) == set(spelled("0123456789"))
    advance(constraint, spelled("4"))
    assert ord("\n") not in allowed(constraint.mask())


def test_line_breaks_that_the_grammar_wants_are_its_own(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="\n{4}a")).constraint(THINKS)
    advance(constraint, [token(b"</think>"), token(b"\n\n"), token(b"\n\n"), ord("a")])
    assert constraint.finished


def test_an_answer_may_open_its_reasoning_itself_once(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(DIGITS).constraint(MAY_THINK)
    assert allowed(constraint.mask()) == {*spelled("0123456789"), token(b"<think>")}
    advance(constraint, [token(b"<think>")])
    assert constraint.mask() is None
    assert not constraint.finished
    advance(constraint, [*spelled("hm"), token(b"</think>")])
    assert token(b"<think>") not in allowed(constraint.mask())
    advance(constraint, spelled("42"))
    assert constraint.finished


def test_an_answer_that_does_not_reason_keeps_to_the_grammar(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(DIGITS).constraint(MAY_THINK)
    advance(constraint, spelled("4"))
    assert allowed(constraint.mask()) == set(spelled("0123456789"))


def test_a_reasoning_marker_of_several_tokens_is_written_to_its_end(compiler: GrammarCompiler) -> None:
    activation = Activation(reasoning_end=b"</think>", reasoning_start_ids=tuple(spelled("<o>")))
    constraint = compiler.compile(DIGITS).constraint(activation)
    advance(constraint, spelled("<"))
    assert allowed(constraint.mask()) == {ord("o")}
    advance(constraint, spelled("o>"))
    assert constraint.mask() is None


@pytest.mark.parametrize("start", [[token(b"<tool_call>")], spelled("<tool_call>")])
def test_text_is_free_until_a_call_starts_and_after_it_ends(compiler: GrammarCompiler, start) -> None:
    constraint = compiler.compile(BODY).constraint(CALLS)
    for _ in range(2):
        assert constraint.mask() is None
        advance(constraint, [*spelled("let me see {}"), *start])
        assert allowed(constraint.mask()) == {ord("\n")}
        advance(constraint, spelled("\n{1"))
        assert EOS not in allowed(constraint.mask())
        advance(constraint, [*spelled("}\n"), token(b"</tool_call>")])
    assert constraint.mask() is None
    assert not constraint.finished
    assert constraint.error is None


def test_text_behind_the_trigger_in_the_same_token_counts(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(BODY).constraint(CALLS)
    advance(constraint, [*spelled("<tool_call"), token(b">\n")])
    assert allowed(constraint.mask()) == {ord("{")}


def test_a_call_whose_start_the_grammar_cannot_take_stays_free(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="x")).constraint(CALLS)
    advance(constraint, [*spelled("<tool_call"), token(b">\n")])
    assert constraint.mask() is None
    assert constraint.error is None


def test_a_call_inside_reasoning_is_not_held(compiler: GrammarCompiler) -> None:
    activation = Activation(reasoning_end=b"</think>", in_reasoning=True, triggers=(b"<tool_call>",))
    constraint = compiler.compile(BODY).constraint(activation)
    advance(constraint, [token(b"<tool_call>"), *spelled("x"), token(b"</think>"), *spelled("text")])
    assert constraint.mask() is None
    advance(constraint, [token(b"<tool_call>")])
    assert allowed(constraint.mask()) == {ord("\n")}


def test_an_error_inside_shows_through(compiler: GrammarCompiler) -> None:
    activation = Activation(reasoning_end=b"</think>", in_reasoning=True, triggers=(b"<tool_call>",))
    constraint = compiler.compile(BODY).constraint(activation)
    for one in (token(b"</think>"), token(b"<tool_call>"), ord("x")):
        assert constraint.error is None
        constraint.advance(one)
    assert constraint.error


marker_text = st.text("ab<", max_size=14)


@given(before=marker_text, after=marker_text, cuts=st.lists(st.integers(0, 40), max_size=8))
def test_a_marker_is_found_wherever_its_text_is_cut(before: str, after: str, cuts: list[int]) -> None:
    data = f"{before}<ab<{after}".encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    watch = TextWatch([b"<ab<"], lambda _: b"")
    fed = 0
    for start, end in pairwise(places):
        fed = end
        found = watch.push_text(data[start:end])
        if found is not None:
            first = data.index(b"<ab<") + 4
            assert first <= end
            assert found == (0, data[first:end])
            break
    else:
        pytest.fail("not found")
    assert b"<ab<" in data[:fed]


tokens = st.lists(st.sampled_from([*range(32, 127), *range(len(BYTES), EOS), EOS, CONTROL]), max_size=30)


@given(tokens=tokens, kind=st.sampled_from([THINKS, MAY_THINK, CALLS, Activation()]))
def test_no_sequence_of_tokens_raises(compiler: GrammarCompiler, tokens, kind) -> None:
    constraint = compiler.compile(BODY).constraint(kind)
    for one in tokens:
        constraint.mask()
        constraint.advance(one)
        assert isinstance(constraint.finished, bool)
        assert constraint.error is None or "\n" not in constraint.error
    assert ADDED
