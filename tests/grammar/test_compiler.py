"""Grammars of every dialect: what they hold, what is refused and why, limits and the cache."""

import json
import re
import threading
import time
from typing import Any

import pytest

from backend.core.errors import InvalidRequest, Overloaded, WorkerUnavailable
from backend.core.request import Grammar
from backend.grammar.compiled import MaskTime
from backend.grammar.compiler import CompilerLimits, GrammarCompiler
from tests.grammar.dear import DEAR, doubling
from tests.grammar.vocabularies import (
    ADDED,
    BYTE_VOCABULARY,
    CONTROL,
    EOS,
    NOTHING,
    accepts,
    allowed,
    token,
    walk,
)

KINDS = {
    "gbnf": ('root ::= "a" [0-9]+', "a12", "ab"),
    "json_schema": (
        '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}',
        '{"a": 1}',
        "[]",
    ),
    "regex": (r"[a-c]{2}/\d\n", "ab/7\n", "ad"),
    "lark": ('start: "x" NUMBER\nNUMBER: /[0-9]+/', "x42", "xx"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_grammar_of_each_kind_holds(compiler: GrammarCompiler, kind) -> None:
    text, right, wrong = KINDS[kind]
    compiled = compiler.compile(Grammar(kind=kind, text=text))
    assert accepts(compiled.constraint(), right)
    constraint = compiled.constraint()
    assert walk(constraint, list(wrong.encode())) < len(wrong)


REFUSED = [
    ("gbnf", "root ::= (((", r"GBNF: line 1, column 12: '\(' is not closed|column"),
    ("gbnf", 'root ::= "a"\nx ::= y', r"line 2, column 7: rule 'y' is not defined"),
    ("gbnf", 'start: "a"', r"line 1, column 6: expected '::='"),
    ("gbnf", 'x ::= "a"', r"no rule named 'root'"),
    ("gbnf", 'root ::= "a', r"column 10: is not closed"),
    ("gbnf", "root ::= [\\d]", r"escape '\\d' is not supported"),
    ("gbnf", 'root ::= "\\\n"', r"escape '.* is not supported"),
    ("gbnf", 'root ::= "\\u12"', r"needs 4 hexadecimal digits"),
    ("gbnf", "root ::= []", r"empty character class"),
    ("gbnf", "root ::= [z-a]", r"range 'z' to 'a' is empty"),
    ("gbnf", "root ::= [^\\x00-\\U0010FFFF]", r"excludes every character"),
    ("gbnf", 'root ::= "a"{3,2}', r"impossible"),
    ("gbnf", 'root ::= "a"{1000000}', r"repeats more than 100000 times"),
    ("gbnf", "root ::= <[1000]>", r"token literals are not supported"),
    ("gbnf", "root ::= !<think>", r"token literals are not supported"),
    ("gbnf", "root ::= x\nx ::= x", r"no finite text matches the rules root, x"),
    ("gbnf", "root ::= " + "(" * 200 + '"a"' + ")" * 200, r"nested deeper than 100"),
    ("gbnf", 'root ::= "a"??????', r"repetitions of one item"),
    ("lark", "start: (((", r"line 1, column 11: Expected token '\)'"),
    ("lark", "start: x\n", r'line 1, column 8: unknown name: "x"'),
    ("lark", 'root ::= "a"', r"line 1"),
    ("regex", "(a", r"invalid regular expression: unclosed group"),
    ("regex", "a(?=b)", r"look-ahead"),
    ("json_schema", '{"not": {}}', r"unsupported keyword 'not'"),
    ("json_schema", '{"type": "object", "if": {}}', r"unsupported keyword 'if'"),
    ("json_schema", '{"type": "array", "uniqueItems": true}', r"unsupported keyword 'uniqueItems'"),
    ("json_schema", '{"type": "string", "minLength": 3, "maxLength": 2}', r"Unsatisfiable schema"),
    ("json_schema", '{"$ref": "https://example.com/x"}', r"JSON schema: Resource"),
    ("json_schema", '{"$ref": "file:///etc/passwd"}', r"JSON schema: "),
    ("json_schema", '{"a": ', r"not valid JSON"),
    ("json_schema", "[]", r"must be an object"),
    ("json_schema", '{"$ref": "#"}', r"no text matches it; does a rule or a \$ref refer only to itself\?"),
    ("lark", "start: x\nx: x", r"no text matches it"),
    ("json_schema", '{"x-guidance": 3}', r"x-guidance"),
    ("json_schema", '{"x-guidance": {"whitespace": 3}}', r"unknown field"),
    ("json_schema", "[" * 100_000, r"not valid JSON"),
]


@pytest.mark.parametrize(("kind", "text", "reason"), REFUSED)
def test_a_grammar_that_cannot_be_used_is_refused_with_its_reason(
    compiler: GrammarCompiler, kind, text, reason
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        compiler.compile(Grammar(kind=kind, text=text))
    assert refusal.value.field == "Grammar"
    assert re.search(reason, refusal.value.message), refusal.value.message
    assert "\n" not in refusal.value.message
    assert len(refusal.value.message) < 400


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", f'{{"type": "{LONG}"}}'),
        ("json_schema", f'{{"{LONG}": 1, "not": {{}}}}'),
        ("json_schema", f'{{"$ref": "#/{LONG}"}}'),
        ("gbnf", f"root ::= {LONG}"),
        ("gbnf", f"root ::= {LONG}\n{LONG} ::= root"),
        ("lark", f"start: {LONG}"),
        ("regex", f"(?P<{LONG}>"),
    ],
)
def test_a_refusal_is_short_however_long_what_it_names_is(compiler: GrammarCompiler, kind: Any, text: str) -> None:
    """Hundreds of them are remembered."""
    with pytest.raises(InvalidRequest) as refusal:
        compiler.compile(Grammar(kind=kind, text=text))
    assert "\n" not in refusal.value.message and len(refusal.value.message) < 500


EXPLODING = {
    "nested_plus": Grammar(kind="regex", text="(a+)+b"),
    "large_count": Grammar(kind="regex", text="a{1000000}"),
    "nested_count": Grammar(kind="regex", text="(a{1000}){1000}"),
    "deep_schema": Grammar(kind="json_schema", text='{"type":"array","items":' * 2000 + '{"type":"null"}' + "}" * 2000),
    "wide_enum": Grammar(kind="json_schema", text=json.dumps({"enum": [f"value {i}" for i in range(50_000)]})),
    "self_reference": Grammar(
        kind="json_schema", text='{"type":"object","properties":{"a":{"$ref":"#"}},"additionalProperties":false}'
    ),
    "doubling_rules": Grammar(
        kind="gbnf", text="root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(30)) + 'r30 ::= "a"?'
    ),
    "doubling_and_recursive": Grammar(
        kind="gbnf",
        text='root ::= "(" root ")" r0 | "x"\n'
        + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(30))
        + 'r30 ::= "a"?',
    ),
    "many_rules": Grammar(
        kind="gbnf", text="root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(20_000)) + 'r20000 ::= "a"'
    ),
    "ambiguous": Grammar(kind="gbnf", text='root ::= root root | "a" | ""'),
    "many_counts": Grammar(kind="gbnf", text="root ::= ((([a-z]{1,900}){1,900}){1,900})"),
    "intersection": Grammar(
        kind="lark", text="start: T\nT: " + " & ".join(f"/(.*a.{{{i}}}.*)/" for i in range(10, 22))
    ),
}


@pytest.mark.parametrize("grammar", EXPLODING.values(), ids=EXPLODING.keys())
def test_a_grammar_made_to_explode_is_bounded(grammar: Grammar) -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    started = time.monotonic()
    try:
        constraint = compiler.compile(grammar).constraint()
        for _ in range(3):
            choices = allowed(constraint.mask()) - {EOS}
            if constraint.error or not choices:
                break
            constraint.advance(min(choices))
    except (InvalidRequest, Overloaded):
        pass
    finally:
        compiler.close()
    assert time.monotonic() - started < 40


def test_a_text_over_the_limit_is_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(Overloaded, match="limit 2097152"):
        compiler.compile(Grammar(kind="lark", text=" " * (2 << 20) + "x"))


def test_the_cache_is_bounded_in_count_and_bytes() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY, CompilerLimits(max_grammars=3))
    grammars = [Grammar(kind="regex", text=text) for text in ("a", "b", "c", "d")]
    first = [compiler.compile(grammar) for grammar in grammars]
    assert all(compiler.compile(g) is c for g, c in zip(grammars[1:], first[1:], strict=True))
    assert compiler.compile(grammars[0]) is not first[0]
    compiler.close()
    one = first[0].bytes
    assert one >= 1
    compiler = GrammarCompiler(BYTE_VOCABULARY, CompilerLimits(max_bytes=3 * one))
    large = Grammar(kind="json_schema", text=json.dumps({"enum": [f"value {i}" for i in range(20_000)]}))
    small = compiler.compile(grammars[0])
    assert compiler.compile(grammars[0]) is small
    assert compiler.compile(large).bytes > 2 * one
    assert compiler.compile(grammars[0]) is not small
    compiler.close()


def test_a_grammar_whose_lexer_has_learned_much_is_made_anew() -> None:
    """Its states are shared by all answers, and at its limit every one of them would fail."""
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    grammar = Grammar(kind="regex", text="a")
    compiled = compiler.compile(grammar)
    before = compiled.bytes
    compiled._time.add(MaskTime.SLOW_S / 2)
    assert compiled.bytes == before
    compiled._time.add(1.5)
    assert compiled.bytes - before == int(1.5 * MaskTime.BYTES_A_SECOND)
    assert compiler.compile(grammar) is compiled
    compiled._time.add(1.5)
    assert compiler.compile(grammar) is not compiled
    compiler.close()


def test_slow_masks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskTime, "SLOW_S", 0.0)  # over so few tokens none is slow
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    compiled = compiler.compile(Grammar(kind="regex", text="(.*a.{12}|.*b.{14}|.*c.{13})*"))
    before = compiled.bytes
    constraint = compiled.constraint()
    for char in b"abcabacbabcabacba" * 8:
        constraint.mask()
        constraint.advance(char)
    assert constraint.error is None
    assert compiled.bytes > before
    compiler.close()


def test_concurrent_requests_of_one_grammar_compile_it_once() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    grammar = Grammar(kind="json_schema", text=json.dumps({"enum": [f"value {i}" for i in range(20_000)]}))
    futures = [compiler.submit(grammar) for _ in range(8)]
    assert compiler._trials._last == 1
    futures[0].cancel()
    assert len({id(future.result(60)) for future in futures[1:]}) == 1
    compiler.close()


def test_a_grammar_that_nobody_waits_for_any_more_is_dropped() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    compiler.compile(Grammar(kind="regex", text="a"))
    futures = [compiler.submit(DEAR) for _ in range(2)]
    for future in futures:
        assert future.cancel()
    assert not compiler._compiling
    assert not compiler._trials._pending
    assert compiler.compile(Grammar(kind="regex", text="b")).constraint().error is None
    compiler.close()


def test_what_was_refused_is_refused_again_without_another_trial() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY, CompilerLimits(max_refused=2))
    deadline, refused = time.monotonic() + 60, ""
    while "memory" not in refused:  # on a busy machine it may be late first, which is no fault of its own
        assert time.monotonic() < deadline, refused
        with pytest.raises(Overloaded) as caught:
            compiler.compile(DEAR)
        refused = str(caught.value)
    trials = compiler._trials._last
    with pytest.raises(Overloaded, match="memory"):
        compiler.compile(DEAR)
    assert compiler._trials._last == trials
    for text in ("(", "((", "((("):
        with pytest.raises(InvalidRequest):
            compiler.compile(Grammar(kind="regex", text=text))
    assert len(compiler._refused) == 2
    compiler.close()


def test_closing_waits_for_no_grammar_and_tells_whoever_waits() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    compiler.compile(Grammar(kind="regex", text="a"))
    futures = [compiler.submit(Grammar(kind="json_schema", text=doubling(f"{i}"))) for i in range(4)]
    compiler.close()
    for future in futures:
        with pytest.raises(WorkerUnavailable):
            future.result(60)


def test_a_closed_compiler_refuses() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    compiler.close()
    with pytest.raises(WorkerUnavailable):
        compiler.compile(Grammar(kind="regex", text="a"))


def test_compiling_happens_on_a_thread_of_its_own_and_constraints_work_on_any(compiler: GrammarCompiler) -> None:
    compiled = compiler.compile(Grammar(kind="regex", text="a{3}b"))
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(accepts(compiled.constraint(), "aaab"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


def test_added_tokens_are_bytes_and_control_tokens_are_not(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="gbnf", text='root ::= "<tool_call>" [^"]*')).constraint()
    assert allowed(constraint.mask()) == {ord("<"), token(b"<tool_call>")}
    constraint.advance(token(b"<tool_call>"))
    choices = allowed(constraint.mask())
    assert {token(b"hello"), token(b"<think>"), EOS, ord("x")} <= choices
    assert choices.isdisjoint({CONTROL, NOTHING, ord('"'), token(b'{"')})


def test_a_mask_has_a_bit_for_every_id_of_the_model_and_no_more(compiler: GrammarCompiler) -> None:
    mask = compiler.compile(Grammar(kind="regex", text=".*")).constraint().mask()
    assert mask is not None
    assert mask.dtype == "uint32"
    assert mask.shape == (-(-BYTE_VOCABULARY.size // 32),)
    assert max(allowed(mask)) < BYTE_VOCABULARY.size


def test_the_end_is_allowed_only_where_the_text_is_complete(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="ab?")).constraint()
    assert EOS not in allowed(constraint.mask())
    constraint.advance(ord("a"))
    assert EOS in allowed(constraint.mask())
    assert not constraint.finished
    constraint.advance(ord("b"))
    assert allowed(constraint.mask()) == {EOS}
    assert constraint.finished
    constraint.advance(EOS)
    assert constraint.finished
    assert constraint.error is None


def test_a_token_that_is_not_allowed_is_an_error_and_no_exception(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="regex", text="ab")).constraint()
    constraint.advance(ord("x"))
    assert constraint.error
    assert "\n" not in constraint.error
    assert not constraint.finished
    constraint.mask()
    constraint.advance(ord("a"))
    assert constraint.error


def test_json_has_no_endless_whitespace(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar(kind="json_schema", text='{"type": "array"}')).constraint()
    assert 30 < walk(constraint, [ord("["), *[ord(" ")] * 200]) < 70


def test_every_added_token_of_the_vocabulary_can_be_written(compiler: GrammarCompiler) -> None:
    for text in ADDED:
        constraint = compiler.compile(Grammar(kind="regex", text="(?s:.*)")).constraint()
        assert token(text) in allowed(constraint.mask())
