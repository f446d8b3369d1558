"""Ways to say what arguments are: what each format's grammar admits fits the schema, or the schema is refused."""

import random
import re
import time
from typing import Any

import jsonschema
import pytest

from backend.core.errors import InvalidRequest
from backend.grammar.compiler import GrammarCompiler
from backend.output import NotForceable
from tests.grammar.schemas import NO_SPACE, linked_parameters
from tests.grammar.test_forced_calls import FORMATS, check_call, grammar_of, vocabulary_of, walked
from tests.output.golden import format_named

# Each way to write arguments: JSON, tags of each kind, quotes of one's own, Python.
KINDS = ("json_tools", "qwen3_coder", "glm47", "minicpm5", "deepseek_v32", "gemma4", "pythonic")
QUICK = ("qwen3_coder", "gemma4")
NAMED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]
STEPS = 400
YES, SHORT, DIGIT = (
    {"type": "boolean"},
    {"type": "string", "maxLength": 2},
    {"type": "integer", "minimum": 0, "maximum": 9},
)


def of(*, required: bool = True, **properties: Any) -> dict[str, Any]:
    """Arguments, all of them required."""
    names = list(properties) if required else []
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def with_definitions(schema: Any, **definitions: Any) -> dict[str, Any]:
    """One argument, and definitions."""
    return {**of(a=schema), "$defs": definitions}


LINKED = {"$ref": "#/$defs/E"}
HELD: dict[str, dict[str, Any]] = {
    "the root is a reference": {"$ref": "#/$defs/R", "$defs": {"R": of(a=DIGIT, b=YES)}},
    "the root is a reference through two others": {
        "$ref": "#/$defs/R",
        "$defs": {"R": {"$ref": "#/$defs/S"}, "S": {"allOf": [{"$ref": "#/definitions/T"}]}},
        "definitions": {"T": of(a=DIGIT)},
    },
    "the root is two parts": {"allOf": [{"type": "object", "properties": {"a": YES}, "required": ["a"]}],
                              "properties": {"b": DIGIT}, "required": ["b"]},
    "a reference to another argument": of(a=YES, b={"$ref": "#/properties/a"}),
    "a reference into a list": of(a={"anyOf": [DIGIT, {"type": "null"}]}, b={"$ref": "#/properties/a/anyOf/0"}),
    "a reference with a slash and a tilde": with_definitions({"$ref": "#/$defs/a~1b~01"}, **{"a/b~1": YES}),
    "a reference in percent": with_definitions({"$ref": "#/$defs/50%25%C3%A9"}, **{"50%\u00e9": YES}),
    "a reference with the document's own name": {
        **with_definitions({"$ref": "https://host/x#/$defs/E"}, E=YES), "$id": "https://host/x",
    },
    "a chain": with_definitions({"$ref": "#/$defs/A"}, A={"$ref": "#/$defs/B"}, B={"$ref": "#/$defs/C"}, C=DIGIT),
    "itself within": with_definitions(
        {"$ref": "#/$defs/T"}, T=of(v=YES, n={"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]})
    ),
    "a limit beside a reference": with_definitions({**LINKED, "maxLength": 2}, E={"type": "string"}),
    "a limit beside a limit's reference": with_definitions({**LINKED, "maxLength": 2}, E={**SHORT, "maxLength": 9}),
    "a note beside a reference": with_definitions({**LINKED, "description": "d"}, E={"enum": ["x", "y z"]}),
    "one part": with_definitions({"allOf": [LINKED], "default": "x"}, E={"enum": ["x", "y z"]}),
    "two parts": of(a={"allOf": [{"type": "string"}, {"maxLength": 2}]}),
    "two parts of a number": of(a={"allOf": [{"type": "integer"}, {"minimum": 3, "maximum": 9}]}),
    "a reference or null": with_definitions(
        {"anyOf": [LINKED, {"type": "null"}]}, E={"type": "string", "enum": ["x", "null"]}
    ),
    "a limit beside a union": of(a={"anyOf": [{"type": "string"}, {"type": "integer"}], "maxLength": 2, "maximum": 9}),
    "a type beside a union": of(a={"type": "string", "anyOf": [{"pattern": "^ab$"}, {"enum": ["c"]}]}),
    "one of unlike types": of(a={"oneOf": [SHORT, DIGIT, YES]}),
    "one of some values": of(a={"oneOf": [{"const": "x", "title": "X"}, {"const": "y"}, {"enum": ["z", 1]}]}),
    "values that do not all fit": of(a={"enum": ["a", "abc", 7, 12], "maxLength": 2, "maximum": 9}),
    "values of one type": of(a={"type": ["string", "null"], "enum": ["x", None, 3]}),
    "a length without a type": of(a={"maxLength": 2}),
    "a pattern without a type": of(a={"pattern": "^[a-c]{2}$"}),
    "a bound without a type": of(a={"minimum": 0, "maximum": 9, "type": "integer"}, b={"maximum": 9, "minimum": 3}),
    "members without a type": of(a={"properties": {"k": YES}, "required": ["k"], "additionalProperties": False}),
    "items without a type": of(a={"items": YES, "minItems": 1, "maxItems": 2}),
    "whole numbers with a point": of(a={"const": 1.0}, b={"enum": [1e20, -0.0, 2.5]}, c={"enum": ["x", 1.0]}),
    "an object or null": {"type": ["object", "null"], "properties": {"a": YES}, "required": ["a"]},
    "no type of the whole": {"properties": {"a": YES}, "required": ["a"], "additionalProperties": False},
    "open": {**of(a=YES), "additionalProperties": True, "required": ["a"]},
    "an argument that the rest is for": {"type": "object", "required": ["a", "b"], "properties": {"b": YES},
                                         "additionalProperties": DIGIT},
    "other alphabets": of(**dict.fromkeys(("gr\u00f6\u00dfe", "\u540d\u524d"), DIGIT)),
    "an older draft": {"$schema": "http://json-schema.org/draft-07/schema#",
                       "definitions": {"E": {"type": "string"}}, **of(a={"$ref": "#/definitions/E", "maxLength": 2})},
    "a nullable one": of(a={**SHORT, "nullable": True}),
}  # fmt: skip


def tool(parameters: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def check(name: str, schemas: list[dict[str, Any]], walks: int) -> int:
    """Walks through the grammar of each schema; how many of them ended."""
    output_format, rng = format_named(name), random.Random(name)
    vocabulary = vocabulary_of(output_format, special=len(name) % 2 == 0)
    compiler, ended = GrammarCompiler(vocabulary), 0
    try:
        for parameters in schemas:
            tools = [tool({**parameters, "x-guidance": NO_SPACE})]
            compiled = compiler.compile(grammar_of(output_format, vocabulary.special, "f", tools))
            for _ in range(walks):
                text = walked(compiled, vocabulary, rng, STEPS)
                if text is not None:
                    ended += 1
                    check_call(output_format, text, rng, tools)
    finally:
        compiler.close()
    return ended


@pytest.mark.parametrize("name", NAMED)
def test_however_a_schema_is_said_calls_fit_it(name: str) -> None:
    assert check(name, [*HELD.values()], 2) > len(HELD)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(pytest.param(name, 6, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FORMATS),
        *(pytest.param(name, 150, marks=pytest.mark.exhaustive) for name in FORMATS),
    ],
)
def test_random_schemas_with_references_and_unions_are_held(name: str, count: int) -> None:
    schemas = [linked_parameters(random.Random(f"{name} {number}"), number % 3) for number in range(count)]
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)
    assert check(name, schemas, 1) > count // 3


# A schema, and words of its refusal: of all formats, or of those that write arguments one by one.
REFUSED_BY_ALL = [
    (with_definitions({"$ref": "#/$defs/none"}), "$ref '#/$defs/none' leads nowhere"),
    (of(required=False, a={"$ref": "#/$defs/none"}), "$ref '#/$defs/none' leads nowhere"),
    (of(a={"type": "array", "items": {"$ref": "#/$defs/x/0"}}), "$ref '#/$defs/x/0' leads nowhere"),
    ({**of(a={"$ref": "#/required/0"})}, "$ref '#/required/0' leads to no schema"),
    (of(a={"$ref": "https://host/y.json"}), "$ref 'https://host/y.json' is no pointer into its own schema"),
    (of(a={"$ref": "#name"}), "$ref '#name' is no pointer"),
    (of(a={"$ref": 3}), "$ref 3 is no pointer"),
    (with_definitions({"$ref": "#/$defs/A"}, A={"$ref": "#/$defs/B"}, B={"$ref": "#/$defs/A"}), "leads to itself"),
    (with_definitions({"$ref": "#/$defs/A"}, A={"allOf": [{"$ref": "#/$defs/A"}]}), "leads to itself"),
    ({"type": "array", "items": YES}, "its parameters are of type array"),
    ({"type": ["string", "null"]}, "its parameters are of type null, string"),
    ({"$ref": "#/$defs/E", "$defs": {"E": {"type": "string"}}}, "its parameters are of type string"),
    ([1], "its parameters are no JSON schema"),
    ({"properties": [], "type": "object"}, "'properties' of its parameters is no object"),
    ({"required": "a", "type": "object"}, "'required' of its parameters is no list"),
]
REFUSED_OF_TEXTS = [
    ({"type": "string", "not": {"const": "a"}}, "a text is not held to 'not'"),
    ({"type": "string", "if": {"maxLength": 2}}, "a text is not held to 'if'"),
    ({"type": "string", "enum": ["a", "b"], "not": {"const": "a"}}, "values are not held to 'not' beside them"),
    ({"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "b$"}]}, "a text is not held to 'allOf'"),
    ({"oneOf": [{"type": "string", "pattern": "^a$"}, {"type": "string", "pattern": "^b$"}]}, "of its 'oneOf'"),
    ({"type": "string", "pattern": "a" * 4097}, "its pattern has more than 4096 characters"),
    ({"oneOf": [{"const": "a"}, {"enum": ["a", "b"]}]}, "of its 'oneOf'"),
    ({"oneOf": [{"const": "a"}, {"type": "string", "maxLength": 3}]}, "of its 'oneOf'"),
    ({"pattern": "^a", "anyOf": [{"type": "string", "pattern": "b$"}]}, "its 'anyOf' and what stands beside it"),
]


@pytest.mark.parametrize("name", NAMED)
def test_what_no_format_holds_is_refused_with_function_and_reason(name: str) -> None:
    for parameters, words in REFUSED_BY_ALL:
        with pytest.raises(NotForceable, match=f"function 'f': .*{re.escape(words)}"):
            format_named(name).forced_calls([tool(parameters)])


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("json_tools", "pythonic")])
@pytest.mark.parametrize("required", [True, False])
def test_what_a_text_cannot_be_held_to_is_refused_with_function_argument_and_keyword(name: str, required: bool) -> None:
    for schema, words in REFUSED_OF_TEXTS:
        with pytest.raises(NotForceable, match=f"function 'f': argument 'a': .*{re.escape(words)}"):
            format_named(name).forced_calls([tool(of(required=required, a=schema))])


@pytest.mark.parametrize("words", ["one", "enum", "const"])
def test_values_of_all_arguments_together_are_not_held_one_by_one(words: str) -> None:
    whole = {"enum": {"enum": [{}, {"a": True}]}, "const": {"const": {}}, "one": {"oneOf": [of(a=YES), of(b=YES)]}}
    for name in ("qwen3_coder", "gemma4", "pythonic"):
        with pytest.raises(NotForceable, match="arguments written one by one cannot be held to"):
            format_named(name).forced_calls([tool({"type": "object", **whole[words]})])
    assert check("json_tools", [{"type": "object", **whole[words]}], 3)


ODD_NAMES = ("a\u200bb", "a b", "gr\u00f6\u00dfe", "\u540d", "a.b", "a-b", "$x", "a\u00a0b", "a\x7fb", "a\u2028b",
             "\u0301", "a/b", "9", "_", 'a"b', "a'b", "a<b", "a>b", "a=b", "a:b", "a,b", "a}b", "a\nb", " a", "x" * 256,
             "\U0001f642", "a&b", "x" * 2000, "a\ue000b", "a\\b", "&amp;")  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_odd_names_are_read_or_refused(name: str) -> None:
    output_format, rng = format_named(name), random.Random(name)
    vocabulary = vocabulary_of(output_format, special=len(name) % 2 == 0)
    compiler, taken = GrammarCompiler(vocabulary), 0
    try:
        for odd in ODD_NAMES:
            for tools in ([tool(of(a=YES), odd)], [tool({**of(), "properties": {odd: YES}, "required": [odd]})]):
                function = tools[0]["function"]["name"]
                try:
                    grammar = grammar_of(output_format, vocabulary.special, function, tools)
                except NotForceable:
                    continue
                text = walked(compiler.compile(grammar), vocabulary, rng, 3000)
                assert text is not None
                assert check_call(output_format, text, rng, tools) == function
                taken += 1
    finally:
        compiler.close()
    assert taken > 6


def test_a_schema_that_llguidance_refuses_is_refused(compiler: GrammarCompiler) -> None:
    tools = [tool(of(a={"type": "array", "uniqueItems": True}))]
    for name in KINDS:
        with pytest.raises(InvalidRequest, match="uniqueItems"):
            compiler.compile(grammar_of(format_named(name), {}, "f", tools))


@pytest.mark.parametrize(
    "definition",
    [
        {"enum": [f"x{number}" for number in range(5000)]},
        {"anyOf": [{"type": "string", "maxLength": number} for number in range(250)]},
        {"oneOf": [{"enum": [f"{one} {other}" for other in range(100)]} for one in range(100)]},
        {"type": "object", "properties": {f"p{number}": SHORT for number in range(1000)}},
    ],
)
def test_a_short_schema_does_not_become_an_endless_grammar(definition: dict[str, Any]) -> None:
    parameters = {"properties": {f"a{number}": LINKED for number in range(1000)}, "$defs": {"E": definition}}
    begun = time.process_time()
    with pytest.raises(NotForceable, match="written out for each of them"):
        format_named("qwen3_coder").forced_calls([tool(parameters)])
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("part", ["[", "(", "[^", "\\\\", "[a\\\\"])
def test_patterns_are_read_in_little_time(part: str) -> None:
    properties: dict[str, Any] = {
        f"a{number}": {"type": "string", "pattern": (part * 4096)[:4096]} for number in range(10)
    }
    begun = time.process_time()
    assert format_named("qwen3_coder").forced_calls([tool(of(**properties))])
    assert time.process_time() - begun < 0.5
