"""Grammars of the four dialects, as a request's are: tried out in their process, compiled, and walked through."""

import json
import random
import zlib
from functools import partial
from typing import Literal

import numpy as np

from backend.core.constraint import Constraint
from backend.core.errors import InvalidRequest, Overloaded
from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.dialects import to_lark
from tests.e2e.odd_values import SCHEMAS
from tests.fuzz.changing import Change, change_text
from tests.fuzz.target import Broken, Target
from tests.fuzz.targets.converter import GRAMMARS
from tests.fuzz.targets.tools import change_schema
from tests.grammar.schemas import random_schema
from tests.grammar.test_compiler import KINDS, REFUSED
from tests.grammar.vocabularies import BYTE_VOCABULARY, allowed

Kind = Literal["gbnf", "json_schema", "regex", "lark"]
# Above what a trial may take, with a wait on a busy machine.
SECONDS = 30.0
_STEPS = 24
_REGEXES = (
    "a", "(a|b)*c", "[a-z]{2,5}", "\\d+(\\.\\d+)?", "(?i)abc", "[^\\x00-\\x1f]*", "\\p{L}+", "\\u{1F30D}|\\n",
    "a/b\\/c",
    "(?s:.)*x", "(a+)+b", "[[:alpha:]&&[^a]]", "\\bword\\b", "^a$", "(?x) a b # c", "a{0}", "", "(?P<n>a)(?:b)",
    "[\\w-]+",
)  # fmt: skip
_LARKS = (
    'start: "x" NUMBER\nNUMBER: /[0-9]+/', "start: a+ | b\na: /[a-c]/ | \"d\"i\nb: a (\",\" a)* \"!\"?",
    'start: %json {"type": "object", "properties": {"a": {"type": "integer"}}}',
    "start: A & B\nA: /[a-z]+/\nB: /[^q]+/",
    "%ignore /[ ]+/\nstart: \"a\" \"b\"{2,3} TEXT\nTEXT[stop=\"!\"]: /(?s:.*)/", 'start: <[261]> "a" <|eos|>',
    "start: ~/a/",
    'start[capture, temperature=0.5]: x\nx[max_tokens=3]: /.*/ | %regex {"substring_chunks": ["a", "b"]}',
    '%llguidance {"no_forcing": false}\nstart: "é" "\\u00e9" /\\x41/', "start: a\na: b | \ng: \"x\"\nb: g g",
)  # fmt: skip
_LARK_WORDS = [w.encode() for w in ("%json", "%regex", "%ignore", "%import common.INT", "%llguidance", "%declare",
"start:",
               "[capture]", "[lazy]", "[stop=\"a\"]", "[suffix=/a/]", "[max_tokens=1]", "<[1]>", "<[1-5]>",
               "<|eos|>", "@a",
               "~", "&", "|", "{1,100}", "..", "\"a\"..\"z\"", "substring", "%lark {", "}")]  # fmt: skip


def gbnf() -> Target:
    """`PredictOptions.Grammar`."""
    return _target("gbnf", GRAMMARS, change_text)


def json_schema() -> Target:
    """Metadata `json_schema`."""
    rng = random.Random(1)
    schemas = [*SCHEMAS, *(random_schema(rng, depth) for depth in (0, 1, 2, 3) for _ in range(6))]
    return _target("json_schema", [json.dumps(schema) for schema in schemas], change_schema)


def regex() -> Target:
    """Metadata `regex`."""
    return _target("regex", _REGEXES, change_text)


def lark() -> Target:
    """Metadata `lark`."""
    return _target("lark", _LARKS, lambda rng, data, words: change_text(rng, data, [*words, *_LARK_WORDS]))


def _target(kind: Kind, texts: "list[str] | tuple[str, ...]", change: Change) -> Target:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    compiler.start()
    odd = [KINDS[kind][0], *(text[:500] for other, text, _ in REFUSED if other == kind)]
    return Target(
        run=partial(_grammar, compiler, kind),
        seeds=[text.encode() for text in (*texts, *odd)],
        change=change,
        refusals=(InvalidRequest, Overloaded),
        seconds=SECONDS + 10,
        close=compiler.close,
    )


def _grammar(compiler: GrammarCompiler, kind: Kind, data: bytes) -> None:
    grammar = Grammar(kind=kind, text=data.decode("utf-8", "replace"))
    # GBNF's conversion has no bound of its own, and a target of its own for what it reaches.
    if kind != "gbnf":
        to_lark(grammar)
    try:
        compiled = compiler.compile(grammar, SECONDS)
    except (InvalidRequest, Overloaded) as error:
        if "\n" in error.message or len(error.message) > 1000:
            raise Broken("a reason of several lines", error.message) from error
        raise
    _walk(compiled.constraint(), random.Random(zlib.crc32(data)))


def _walk(constraint: Constraint, rng: random.Random) -> None:
    """Draw an answer from the masks; neither they nor what is drawn may raise, and what a mask allows is taken."""
    for _ in range(_STEPS):
        mask = constraint.mask()
        if constraint.error is not None:
            _check_error(constraint.error)
            return
        ids = allowed(mask)
        if not ids:
            raise Broken("a mask of nothing without an error")
        token = rng.choice(sorted(ids))
        if token in BYTE_VOCABULARY.eos_ids:
            return
        constraint.valid(constraint.forced(8))
        constraint.advance(token)
        if constraint.error is not None:
            if "does not allow" in constraint.error:
                raise Broken("a mask allows what is not taken", token)
            _check_error(constraint.error)
            return
    constraint.advance(int(np.int32(rng.randrange(BYTE_VOCABULARY.size))))


def _check_error(error: str) -> None:
    if "\n" in error or "panic" in error:
        raise Broken("an error that is no sentence", error)
