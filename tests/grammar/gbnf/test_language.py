"""What a converted GBNF grammar allows is exactly what the grammar means, against a plain enumeration."""

from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.errors import InvalidRequest
from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.gbnf.nodes import Alt, Chars, Node, Ref, Repeat, Rules, Seq, Text
from backend.grammar.gbnf.parser import parse_gbnf
from backend.grammar.vocabulary import Vocabulary
from tests.grammar.vocabularies import allowed

LONGEST = 5
TOKENS = ["a", "b", "c", "ab", "ba", "aa", "abc", "bb", "cab"]
EOS = len(TOKENS)


@lru_cache(maxsize=1)
def small_compiler() -> GrammarCompiler:
    return GrammarCompiler(Vocabulary([*(t.encode() for t in TOKENS), b"<eos>"], {"<eos>": EOS}, (EOS,)))


def language(rules: Rules, longest: int) -> frozenset[str]:
    """Every text of up to `longest` characters that `root` matches, by fixed point."""
    known: dict[str, frozenset[str]] = dict.fromkeys(rules, frozenset())
    while True:
        new = {name: texts_of(node, known, longest) for name, node in rules.items()}
        if new == known:
            return known["root"]
        known = new


def texts_of(node: Node, known: dict[str, frozenset[str]], longest: int) -> frozenset[str]:
    match node:
        case Text(value):
            return frozenset({value} if len(value) <= longest else ())
        case Chars(ranges):
            return frozenset(c for c in "abc" if any(low <= ord(c) <= high for low, high in ranges))
        case Ref(name):
            return known[name]
        case Alt(options):
            return frozenset().union(*(texts_of(option, known, longest) for option in options))
        case Seq(items):
            out = frozenset({""})
            for item in items:
                out = joined(out, texts_of(item, known, longest), longest)
            return out
        case Repeat(item, low, high):
            return repeated(texts_of(item, known, longest), low, high, longest)
        case _:
            raise AssertionError(node)


def joined(left: frozenset[str], right: frozenset[str], longest: int) -> frozenset[str]:
    return frozenset(a + b for a in left for b in right if len(a + b) <= longest)


def repeated(item: frozenset[str], low: int, high: int | None, longest: int) -> frozenset[str]:
    power, out = frozenset({""}), frozenset()
    for count in range(max(low, longest) + 1 if high is None else high + 1):
        out = out | power if count >= low else out
        power = joined(power, item, longest)
    return out


leaf = st.sampled_from(['"a"', '"b"', '"ab"', '"c"', "[ab]", "[^a]", "[bc]", "x", "y", "x", "y", '""'])
quantifier = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{2,}"])


def bigger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(" ".join, st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda a, b: f"({a} | {b})", inner, inner),
        st.builds(lambda a, q: f"({a}){q}", inner, quantifier),
    )


body = st.recursive(leaf, bigger, max_leaves=6)
grammar = st.builds("root ::= {}\nx ::= {}\ny ::= {}\n".format, body, body, body)
flat = st.recursive(leaf.filter(lambda text: text not in "xy"), bigger, max_leaves=6).map("root ::= {}\n".format)


@given(text=grammar)
def test_every_text_of_the_language_can_be_written_and_ended(text: str) -> None:
    texts = language(parse_gbnf(text), LONGEST)
    try:
        compiled = small_compiler().compile(Grammar(kind="gbnf", text=text))
    except InvalidRequest as refusal:
        assert not texts or "no finite text" in refusal.message
        return
    for one in texts:
        constraint = compiled.constraint()
        for char in one:
            assert TOKENS.index(char) in allowed(constraint.mask()), (one, char)
            constraint.advance(TOKENS.index(char))
        assert EOS in allowed(constraint.mask()), one


@given(text=grammar, data=st.data())
def test_only_texts_of_the_language_can_be_ended(text: str, data: st.DataObject) -> None:
    texts = language(parse_gbnf(text), LONGEST)
    try:
        constraint = small_compiler().compile(Grammar(kind="gbnf", text=text)).constraint()
    except InvalidRequest:
        return
    written = ""
    while len(written) <= LONGEST:
        choices = allowed(constraint.mask())
        assert (EOS in choices) == (written in texts), written
        words = sorted(choices - {EOS})
        if not words:
            return
        picked = data.draw(st.sampled_from(words))
        constraint.advance(picked)
        written += TOKENS[picked]


@given(text=flat)
def test_a_mask_holds_every_token_that_leads_to_a_text_and_no_other(text: str) -> None:
    if any(mark in text for mark in "*+,"):
        return  # endless languages are not enumerated to their end
    texts = language(parse_gbnf(text), 40)
    if len(texts) > 300 or not texts:
        return
    compiled = small_compiler().compile(Grammar(kind="gbnf", text=text))
    for start in ("", "a", "b", "ab"):
        if not any(one.startswith(start) for one in texts):
            continue
        constraint = compiled.constraint()
        for char in start:
            constraint.advance(TOKENS.index(char))
        expected = {i for i, t in enumerate(TOKENS) if any(one.startswith(start + t) for one in texts)}
        assert allowed(constraint.mask()) - {EOS} == expected


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ('root ::= a "b"\na ::= [a-c]+', ["aab", "bb"]),
        ('root ::= "a" "bc" | "ab" "a"', ["abc", "aba"]),
        ('root ::= "c" root "b" | [abc]*', ["", "cab", "ccbb"]),
        ('root ::= ws "a" ws\nws ::= ([bc] ws)?', ["a", "bcbabc"]),
        ('root ::= root "a" | "b"', ["b", "baa"]),
        ('root ::= "ab" "ab" | x "ab" | "abab"\nx ::= "ab"', ["abab"]),
        ('root ::= x* "a"\nx ::= "a" x "b" | ""', ["a", "aba"]),
    ],
)
def test_grammars_that_trip_a_greedy_lexer_keep_their_language(text: str, texts: list[str]) -> None:
    for one in texts:
        constraint = small_compiler().compile(Grammar(kind="gbnf", text=text)).constraint()
        for char in one:
            assert TOKENS.index(char) in allowed(constraint.mask()), (one, char)
            constraint.advance(TOKENS.index(char))
        assert EOS in allowed(constraint.mask())
