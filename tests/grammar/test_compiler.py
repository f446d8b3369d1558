"""Grammars of every dialect: what they hold, what is refused and why, limits and the cache."""

import json
import re
import threading
import time

import pytest

from backend.core.errors import InvalidRequest, WorkerUnavailable
from backend.core.request import Grammar
from backend.grammar.compiler import CompilerLimits, GrammarCompiler
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
    except InvalidRequest:
        pass
    finally:
        compiler.close()
    assert time.monotonic() - started < 8


def test_a_text_over_the_limit_is_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidRequest, match="limit 2097152"):
        compiler.compile(Grammar(kind="lark", text=" " * (2 << 20) + "x"))


def test_a_late_grammar_is_refused_and_the_next_one_compiles() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY, CompilerLimits(seconds=0.0))
    with pytest.raises(InvalidRequest, match="took over 0 s"):
        compiler.compile(EXPLODING["wide_enum"])
    good = Grammar(kind="regex", text="a")
    assert compiler.submit(good).result(30).constraint().error is None
    compiler.close()


def test_the_cache_is_bounded_in_count_and_bytes() -> None:
    compiler = GrammarCompiler(BYTE_VOCABULARY, CompilerLimits(max_grammars=3, max_bytes=10))
    grammars = [Grammar(kind="regex", text=text) for text in ("a", "b", "c", "d")]
    first = [compiler.compile(grammar) for grammar in grammars]
    assert all(compiler.compile(g) is c for g, c in zip(grammars[1:], first[1:], strict=True))
    assert compiler.compile(grammars[0]) is not first[0]
    large = compiler.compile(Grammar(kind="regex", text="abcdefghij"))
    assert compiler.compile(Grammar(kind="regex", text="abcdefghij")) is large
    assert compiler.compile(grammars[0]) is not first[0]
    compiler.close()


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
