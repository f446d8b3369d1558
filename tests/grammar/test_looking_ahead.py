"""What a grammar forces next and how much of a draft it allows; and that asking changes nothing."""

import random

import pytest

from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.constraints import GrammarConstraint
from backend.grammar.waiting import Activation
from tests.grammar.vocabularies import ADDED, BYTE_VOCABULARY, EOS, allowed, token, walk

SCHEMA = (
    '{"type": "object", "properties": {"alpha": {"type": "integer"}, "beta": {"enum": ["one", "other"]}},'
    ' "required": ["alpha", "beta"], "additionalProperties": false}'
)
GRAMMARS = [
    Grammar(kind="json_schema", text=SCHEMA),
    Grammar(kind="gbnf", text='root ::= "hello " ("hello"|"true") [0-9]{2} "né日本"'),
    Grammar(kind="regex", text=r"(abc|abd)*\n{2,4}x"),
]
THINKS = Activation(reasoning_end=b"</think>", in_reasoning=True)
MAY_THINK = Activation(reasoning_end=b"</think>", reasoning_start_ids=(token(b"<think>"),))
CALLS = Activation(triggers=(b"<tool_call>",))


def spelt(tokens) -> bytes:
    return b"".join(BYTE_VOCABULARY.tokens[one] for one in tokens)


def drafts(drawn: random.Random, allowed_now: list[int]) -> list[int]:
    anything = [*b'{"alpha": 1} hello12n\n', *range(256, 256 + len(ADDED)), EOS]
    return [drawn.choice(allowed_now), *(drawn.choice(anything) for _ in range(drawn.randrange(8)))]


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.kind)
@pytest.mark.parametrize("activation", [Activation(), THINKS, MAY_THINK, CALLS], ids=str)
def test_asking_changes_nothing_and_what_is_valid_is_allowed(compiler: GrammarCompiler, grammar, activation) -> None:
    compiled = compiler.compile(grammar)
    for seed in range(8):
        drawn = random.Random(seed)
        subject, twin = compiled.constraint(activation), compiled.constraint(activation)
        gone: list[int] = []
        for _ in range(40):
            choices = sorted(allowed(twin.mask()) - {EOS})
            if not choices:
                break
            draft = drafts(drawn, choices)
            forced = subject.forced(5)
            fits = subject.valid(draft)
            again = compiled.constraint(activation)
            assert walk(again, gone) == len(gone)
            assert fits <= walk(again, draft)
            assert subject.valid([*forced]) == len(forced) <= 5
            assert allowed(subject.mask()) == allowed(twin.mask())
            marker = drawn.choice(["", "<think>", "</think>", "<tool_call>"]).encode() if len(choices) > 200 else b""
            for one in [*marker] or [drawn.choice(choices)]:
                subject.advance(one)
                twin.advance(one)
                gone.append(one)
            assert (subject.error, subject.finished) == (twin.error, twin.finished)


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.kind)
def test_a_plain_grammars_answer_is_exact(compiler: GrammarCompiler, grammar) -> None:
    compiled = compiler.compile(grammar)
    for seed in range(10):
        drawn = random.Random(seed)
        subject, gone = compiled.constraint(), list[int]()
        while choices := sorted(allowed(subject.mask()) - {EOS}):
            draft = drafts(drawn, choices)
            again = compiled.constraint()
            walk(again, gone)
            assert subject.valid(draft) == walk(again, draft)
            subject.advance(one := drawn.choice(choices))
            gone.append(one)
            if len(gone) > 40:
                break


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.kind)
def test_what_is_forced_comes_whatever_is_chosen(compiler: GrammarCompiler, grammar) -> None:
    compiled = compiler.compile(grammar)
    for seed in range(10):
        drawn = random.Random(seed)
        subject, gone, promised = compiled.constraint(), list[int](), list[tuple[int, bytes]]()
        while (choices := sorted(allowed(subject.mask()) - {EOS})) and len(gone) < 60:
            promised.append((len(spelt(gone)), spelt(subject.forced(100))))
            subject.advance(one := drawn.choice(choices))
            gone.append(one)
        text = spelt(gone)
        for at, forced in promised:
            came = text[at : at + len(forced)]
            assert forced.startswith(came)
        assert any(forced for _, forced in promised) or grammar.kind == "regex"


def test_the_names_of_a_schema_are_forced(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(GRAMMARS[0]).constraint()
    assert walk(constraint, [token(b'{"')]) == 1
    assert spelt(constraint.forced(100)) == b'alpha"'
    assert len(constraint.forced(3)) == 3
    assert walk(constraint, [*b"al"]) == 2
    assert spelt(constraint.forced(100)) == b'pha"'


def test_a_long_literal_is_worked_out_once(compiler: GrammarCompiler) -> None:
    text = "ab cd ef " * 400
    constraint = compiler.compile(Grammar(kind="gbnf", text=f'root ::= "{text}" [0-9]')).constraint()
    for at, one in enumerate(text.encode()):
        forced = constraint.forced(8)
        assert spelt(forced) == text[at : at + len(forced)].encode()
        assert forced or at > len(text) - 2
        constraint.advance(one)


def test_a_draft_may_end_with_the_answer(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="ab*")).constraint()
    assert constraint.valid([*b"abb", EOS]) == 4
    assert constraint.valid([*b"abb", EOS, *b"b"]) == 4
    assert constraint.valid([EOS]) == 0


def test_an_id_that_is_none_ends_a_draft_and_no_answer(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="ab*")).constraint()
    assert constraint.valid([*b"ab", 10_000]) <= 2
    assert walk(constraint, [*b"abbb"]) == 4


def test_a_character_that_is_half_written_forces_nothing_wrong(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="gbnf", text='root ::= "é日"')).constraint()
    assert spelt(constraint.forced(10)) == "é日".encode()
    for one in "é".encode():
        constraint.advance(one)
        assert constraint.valid(constraint.forced(10)) == len(constraint.forced(10))
    assert spelt(constraint.forced(10)) == "日".encode()
    unasked = compiler.compile(Grammar(kind="gbnf", text='root ::= "é日"')).constraint()
    unasked.advance("é".encode()[0])
    assert unasked.forced(10) == []


def test_reasoning_is_free_up_to_its_end(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="[0-9]{2}")).constraint(THINKS)
    assert constraint.forced(5) == ()
    assert constraint.valid([*b"so </think>12"]) == len("so </think>")
    assert walk(constraint, [*b"</think>"]) == 8
    assert constraint.valid([token(b"\n\n"), *b"\n12", EOS]) == 5
    assert constraint.valid([*b"\n\n\n12"]) == 2
    assert constraint.valid([*b"x"]) == 0


def test_where_reasoning_or_line_breaks_may_come_nothing_is_forced(compiler: GrammarCompiler) -> None:
    forcing = compiler.compile(Grammar(kind="regex", text="ab[0-9]"))
    thinks, may_think = forcing.constraint(THINKS), forcing.constraint(MAY_THINK)
    assert walk(thinks, [*b"</think>"]) == 8
    assert thinks.forced(5) == may_think.forced(5) == ()
    for constraint in (thinks, may_think):
        constraint.advance(ord("a"))
        assert spelt(constraint.forced(5)) == b"b"


def test_a_marker_that_opens_reasoning_is_forced_once_it_has_begun(compiler: GrammarCompiler) -> None:
    marker = (token(b"<think>"), ord(">"), ord("!"))
    activation = Activation(reasoning_end=b"</think>", reasoning_start_ids=marker)
    constraint = compiler.compile(Grammar(kind="regex", text="[0-9]{2}")).constraint(activation)
    assert constraint.valid([*marker, 7]) == 3
    assert constraint.valid([marker[0], 7]) == 1
    constraint.advance(marker[0])
    assert constraint.forced(5) == marker[1:]
    assert constraint.forced(1) == marker[1:2]
    assert constraint.valid([*marker[1:], 7]) == 2
    assert constraint.valid([7]) == 0


def test_text_that_was_accepted_is_forced_no_more(compiler: GrammarCompiler) -> None:
    matcher = compiler.compile(Grammar(kind="regex", text="ab[0-9]")).constraint()
    assert isinstance(matcher, GrammarConstraint)
    assert spelt(matcher.forced(5)) == b"ab"
    assert not matcher.accept_text(b"x")
    assert spelt(matcher.forced(5)) == b"ab"
    assert matcher.accept_text(b"a")
    assert spelt(matcher.forced(5)) == b"b"


def test_a_call_is_held_to_its_grammar(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text=r"\{[0-9]\}</tool_call>")).constraint(CALLS)
    assert constraint.valid([*b"free <tool_call>{1}"]) == len("free <tool_call>")
    assert walk(constraint, [token(b"<tool_call>")]) == 1
    assert constraint.valid([*b"{12"]) == 2
    assert spelt(constraint.forced(5)) == b"{"
