"""The host's own grammars hold: what they mean can be written, random answers mean what they say."""

import json
import random

import pytest

from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from tests.grammar import host_grammars
from tests.grammar.vocabularies import BYTE_VOCABULARY, EOS, accepts, allowed, gbnf, token, walk

HOST = {name: text for name, text in vars(host_grammars).items() if name.isupper() and not name.startswith("_")}
CALL = '{"arguments": {"city": "Z\u00fcrich"}, "name": "get_weather"}'
PET = '{"age": 3, "name": "a \\" \\u00e9", "tags": ["x", "y"], "kind": "cat"}'

RIGHT = [
    ("JSON_OBJECT", '{"a": [1, -2.5e+3, {"b"  :\n\t"c\\n"}, true, null ] , "": {}}'),
    ("JSON_OBJECT", "{" + " " * 5000 + "}" + "\n" * 5000),
    ("JSON_SCHEMA", PET),
    ("TOOLS", CALL),
    ("TOOLS", '{"arguments":{"message":"hi"},"name":"answer"}'),
    ("PARALLEL_TOOLS", f"[\n{CALL},\n{CALL}]"),
    ("PARALLEL_TOOLS", CALL),
    ("MIXED_TEXT", CALL),
    ("MIXED_TEXT", "The weather: {fine}"),
    ("TAGGED", f"<tool_call>\n{CALL}</tool_call>"),
]


@pytest.mark.parametrize(("name", "text"), RIGHT)
def test_what_a_host_grammar_means_can_be_written(compiler: GrammarCompiler, name, text) -> None:
    assert accepts(gbnf(compiler, HOST[name]), text)


WRONG = [
    ("JSON_OBJECT", "[1]"),
    ("JSON_OBJECT", '{"a": 1,}'),
    ("JSON_OBJECT", '{"a": 01e}'),
    ("JSON_OBJECT", '{"a": "\n"}'),
    ("JSON_SCHEMA", PET.replace("cat", "cow")),
    ("JSON_SCHEMA", PET.replace("3", "3.5")),
    ("TOOLS", CALL.replace("get_weather", "get_time")),
    ("TAGGED", CALL),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_what_a_host_grammar_does_not_mean_cannot_be_written(compiler: GrammarCompiler, name, text) -> None:
    assert not accepts(gbnf(compiler, HOST[name]), text)


def test_tags_may_be_written_as_their_tokens(compiler: GrammarCompiler) -> None:
    constraint = gbnf(compiler, HOST["TAGGED"])
    tokens = [token(b"<tool_call>"), *CALL.encode(), token(b"</tool_call>")]
    assert walk(constraint, tokens) == len(tokens)
    assert constraint.finished


@pytest.mark.parametrize("name", ["JSON_OBJECT", "JSON_SCHEMA", "TOOLS", "PARALLEL_TOOLS"])
@pytest.mark.parametrize("seed", range(5))
def test_random_answers_under_a_host_grammar_never_get_stuck_and_parse(compiler: GrammarCompiler, name, seed) -> None:
    text = random_answer(compiler, HOST[name], random.Random(seed))
    # The host's `[^"\\\\]` lets control characters into strings, which JSON does not.
    value = json.loads(text, strict=name == "JSON_OBJECT")
    if name == "JSON_SCHEMA":
        assert value["kind"] in ("cat", "dog")
        assert isinstance(value["age"], int)
    if name == "TOOLS":
        assert value["name"] in ("get_weather", "answer")


def random_answer(compiler: GrammarCompiler, grammar: str, rng: random.Random, limit: int = 3000) -> str:
    """An answer drawn from the masks alone, with a pull towards the end so that it has one."""
    constraint = compiler.compile(Grammar(kind="gbnf", text=grammar)).constraint()
    closing = {ord(c) for c in '"]}'}
    written = b""
    for step in range(limit):
        choices = allowed(constraint.mask())
        assert choices, constraint.error
        if EOS in choices:
            return written.decode(errors="replace")
        plain = sorted(c for c in choices if c < 128 or c > 255) or sorted(choices)
        closers = sorted(choices & closing)
        picked = rng.choice(closers) if closers and rng.random() < step / 200 else rng.choice(plain)
        written += BYTE_VOCABULARY.tokens[picked]
        constraint.advance(picked)
        assert constraint.error is None
    raise AssertionError(f"no end: {written[-100:]!r}")
