"""Random schemas, random answers drawn from the masks: what finishes validates, what is cut is JSON so far."""

import json
import random

import jsonschema
import pytest

from backend.core.errors import InvalidRequest
from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from tests.grammar.json_prefix import is_json_prefix
from tests.grammar.schemas import random_schema, unsupported_schema
from tests.grammar.vocabularies import BYTE_VOCABULARY, EOS, allowed

BUDGET = 600


def written(compiler: GrammarCompiler, schema: dict, rng: random.Random) -> tuple[bytes, bool]:
    """A random answer, and whether it ended within the budget."""
    grammar = Grammar(kind="json_schema", text=json.dumps(schema))
    constraint = compiler.compile(grammar).constraint()
    data = b""
    for _ in range(BUDGET):
        picked = rng.choice(sorted(allowed(constraint.mask())))
        if picked == EOS:
            return data, True
        constraint.advance(picked)
        assert constraint.error is None
        data += BYTE_VOCABULARY.tokens[picked]
    return data, False


@pytest.mark.parametrize("depth", range(5))
def test_random_answers_validate_and_cut_ones_are_json_so_far(compiler: GrammarCompiler, depth: int) -> None:
    finished = 0
    for seed in range(12):
        rng = random.Random(f"{depth}/{seed}")
        schema = random_schema(rng, depth)
        data, ended = written(compiler, schema, rng)
        if ended:
            finished += 1
            jsonschema.validate(json.loads(data), schema, jsonschema.Draft202012Validator)
        cut = data[: rng.randint(0, len(data))].decode(errors="ignore")
        assert is_json_prefix(cut), (cut, schema)
    assert finished >= 10


@pytest.mark.parametrize("seed", range(12))
def test_a_keyword_that_is_not_supported_is_named(compiler: GrammarCompiler, seed: int) -> None:
    schema, keyword = unsupported_schema(random.Random(seed), 2)
    with pytest.raises(InvalidRequest, match=f"unsupported keyword.*{keyword}"):
        compiler.compile(Grammar(kind="json_schema", text=json.dumps(schema)))


@pytest.mark.parametrize("value", [{"a": [1, -2.5e-3, 'x\\"\u00e9\n', True, None, {}]}, [], "", 0, -1.5, [[[]]]])
def test_every_beginning_of_json_is_seen_as_one(value: object) -> None:
    text = json.dumps(value, indent=1)
    for cut in range(len(text) + 1):
        assert is_json_prefix(text[:cut]), text[:cut]


@pytest.mark.parametrize(
    "text", ["}", "[,", "[1,]", '{"a" 1', "01", "tru1", '"\n', "-a", "1.e", "[1 2", '{"a":1,}', '"\\x']
)
def test_what_cannot_become_json_is_seen_too(text: str) -> None:
    assert not is_json_prefix(text)
