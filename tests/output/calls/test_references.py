"""What `$ref` and `allOf` stand for: one answer for the grammar and the reader."""

import itertools
import json
import random
import re
import time
from typing import Any

import jsonschema
import pytest

from backend.core.call_shape import NotForceable
from backend.output.calls.parameters import call_parameters
from backend.output.calls.references import Document
from backend.output.calls.schema import ToolSchemas
from tests.grammar.schemas import linked_parameters

ROOT = {
    "$id": "https://host/s.json",
    "$defs": {
        "a/b": {"type": "boolean"},
        "m~n": {"type": "null"},
        "50%": {"type": "array"},
        "\u00e9": {"type": "object"},
        "": {"type": "integer"},
        "yes": True,
        "~1": {"type": "string"},
    },
    "anyOf": [{"title": "first"}, {"title": "second"}],
}


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", ROOT),
        ("#/$defs/a~1b", {"type": "boolean"}),
        ("#/$defs/m~0n", {"type": "null"}),
        ("#/$defs/50%25", {"type": "array"}),
        ("#/%24defs/%C3%A9", {"type": "object"}),
        ("#/$defs/\u00e9", {"type": "object"}),
        ("#/$defs/", {"type": "integer"}),
        ("#/$defs/yes", True),
        ("#/$defs/~01", {"type": "string"}),
        ("#/anyOf/1", {"title": "second"}),
        ("https://host/s.json#/anyOf/0", {"title": "first"}),
    ],
)
def test_a_pointer_leads_to_its_schema(reference: str, found: Any) -> None:
    assert Document(ROOT).target(reference) == found


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("#/$defs/none", "leads nowhere"),
        ("#/$defs/a/b", "leads nowhere"),
        ("#/anyOf/2", "leads nowhere"),
        ("#/anyOf/-1", "leads nowhere"),
        ("#/anyOf/\u0661", "leads nowhere"),
        ("#/anyOf/" + "9" * 5000, "leads nowhere"),
        ("#/$id", "leads to no schema"),
        ("#/anyOf", "leads to no schema"),
        ("#name", "is no pointer"),
        ("other.json#/a", "is no pointer"),
        ("", "is no pointer"),
        (None, "is no pointer"),
        ({"a": 1}, "is no pointer"),
    ],
)
def test_a_pointer_that_leads_nowhere_is_named(reference: Any, words: str) -> None:
    with pytest.raises(NotForceable, match=re.escape(f"$ref {reference!r} {words}")):
        Document(ROOT).target(reference)


@pytest.mark.parametrize(
    ("schema", "flat"),
    [
        ({"$ref": "#/$defs/s"}, {"type": "string", "maxLength": 5}),
        ({"$ref": "#/$defs/s", "maxLength": 2, "title": "t"}, {"type": "string", "maxLength": 2, "title": "t"}),
        ({"$ref": "#/$defs/s", "maxLength": 9}, {"type": "string", "maxLength": 5}),
        ({"allOf": [{"$ref": "#/$defs/t"}], "default": "x"}, {"type": "string", "maxLength": 5, "default": "x"}),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, {"pattern": "a", "allOf": [{"pattern": "b"}]}),
        ({"allOf": [{"required": ["a"]}, {"required": ["b", "a"]}]}, {"required": ["a", "b"]}),
        ({"$ref": "#/$defs/no"}, {"not": {}}),
        ({"allOf": []}, {"allOf": []}),
        ({"allOf": 3}, {"allOf": 3}),
        (True, {}),
        (None, {}),
    ],
)
def test_a_schema_is_flat_as_far_as_one_can_say_it(schema: Any, flat: Any) -> None:
    definitions = {"s": {"type": "string", "maxLength": 5}, "t": {"$ref": "#/$defs/s"}, "no": False}
    assert Document({"$defs": definitions}).flat(schema) == flat


LOOPS = [
    {"$ref": "#/$defs/a"},
    {"allOf": [{"$ref": "#/$defs/a"}]},
    {"$ref": "#/$defs/b", "maxLength": 3},
    {"allOf": [{"type": "string"}, {"$ref": "#/$defs/b"}]},
]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reference_to_itself_is_refused_and_read_as_anything(loop: Any) -> None:
    root = {"properties": {"k": {"$ref": "#/$defs/a"}}, "$defs": {"a": loop, "b": {"$ref": "#/$defs/a"}}}
    with pytest.raises(NotForceable, match=r"\$ref '#/\$defs/.' leads to itself|\$ref None leads to itself"):
        call_parameters(root)
    assert types(root, "k") == frozenset()


def types(parameters: Any, argument: str) -> frozenset[str]:
    """As the reader asks for them."""
    return ToolSchemas([{"function": {"name": "f", "parameters": parameters}}]).types("f", argument)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"maxLength": 3}, {"string"}),
        ({"pattern": "a", "minimum": 3}, {"string", "number"}),
        ({"properties": {}}, {"object"}),
        ({"items": {}}, {"array"}),
        ({"type": ["string", "null"], "anyOf": [{"type": "string"}, {"type": "integer"}]}, {"string"}),
        ({"allOf": [{"type": ["integer", "null"]}, {"type": ["number", "boolean"]}]}, {"integer"}),
        ({"type": "number", "enum": [1, 2.5]}, {"number"}),
        ({"enum": [1.0, 2.5]}, {"integer", "number"}),
        ({"$ref": "#/properties/other"}, {"boolean"}),
        ({"anyOf": [{"$ref": "#/properties/a"}, {"type": "null"}]}, {"null"}),
        ({"anyOf": [{"$ref": "#/none"}, {"type": "null"}]}, {"null"}),
    ],
)
def test_types_follow_references_unions_and_what_keywords_are_about(schema: Any, expected: set[str]) -> None:
    parameters = {"properties": {"a": schema, "other": {"type": "boolean"}}, "additionalProperties": {"type": "null"}}
    assert types(parameters, "a") == expected
    assert types(parameters, "not declared") == {"null"}
    assert types({"$ref": "#/$defs/R", "$defs": {"R": {"properties": {"a": {"type": "null"}}}}}, "a") == {"null"}


def test_what_is_forced_has_the_types_that_are_read_and_takes_the_same_values() -> None:
    for number in range(100):
        parameters = linked_parameters(random.Random(number), number % 3)
        forced = json.loads(json.dumps(call_parameters(parameters)))
        document = Document(forced)
        for name in Document(parameters).flat(parameters)["properties"]:
            assert types(parameters, name) == document.types(document.argument(name)), (parameters, name)
        before, after = jsonschema.Draft202012Validator(parameters), jsonschema.Draft202012Validator(forced)
        for value in ({}, *(dict.fromkeys(forced["properties"], each) for each in (True, 1, "a", None, [], {}))):
            assert before.is_valid(value) is after.is_valid(value), (parameters, value)


def test_only_what_is_needed_is_defined_once() -> None:
    shared = {"type": "object", "properties": {"n": {"$ref": "#/$defs/A"}}}
    defined = {"A": shared, "B": {"$ref": "#/$defs/A"}, "unused": {"not": {}}}
    links = {str(number): {"$ref": f"#/$defs/{'AB'[number % 2]}"} for number in range(100)}
    found = call_parameters({"properties": links, "$defs": defined})
    assert len(found["$defs"]) == 2
    data = {"default": {"$ref": "none"}, "enum": [{"$ref": "none"}], "const": {"$ref": "none"}}
    assert call_parameters({"properties": {"a": data, "$ref": {"type": "null"}}})["properties"]["a"] == data


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    """Each definition has the next one four times."""
    definitions = {f"d{at}": {keyword: [{"$ref": f"#/$defs/d{at + 1}"}] * 4} for at in range(levels)}
    return {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**definitions, f"d{levels}": {"type": "string"}}}


@pytest.mark.parametrize(("keyword", "levels"), [("anyOf", 40), ("oneOf", 40), ("allOf", 25)])
def test_definitions_that_multiply_take_no_time(keyword: str, levels: int) -> None:
    begun = time.process_time()
    parameters = doubling(keyword, levels)
    assert types(parameters, "a") == {"string"}
    assert len(json.dumps(call_parameters(parameters))) < 20_000
    assert time.process_time() - begun < 1


def test_chains_are_bounded() -> None:
    definitions = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}]} for at in range(5000)}
    assert types({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}, "a") == frozenset()
    chain = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(5000)}
    assert types({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**chain, "d5000": {}}}, "a") == frozenset()
    with pytest.raises(NotForceable, match="through too many others"):
        call_parameters({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**chain, "d5000": {}}})


def test_types_of_schemas_that_lead_into_each_other_do_not_depend_on_what_was_asked_before() -> None:
    links = {"a": ("string", "b"), "b": ("integer", "c"), "c": ("null", "a"), "d": ("boolean", "b")}
    definitions: dict[str, Any] = {
        key: {"anyOf": [{"type": kind}, {"$ref": f"#/$defs/{to}"}]} for key, (kind, to) in links.items()
    }
    both = {"allOf": [{"anyOf": [{"$ref": "#/$defs/c"}]}, {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/both"}]}]}
    definitions["both"] = both
    parameters = {"properties": {key: {"$ref": f"#/$defs/{key}"} for key in definitions}, "$defs": definitions}
    alone = {key: types(parameters, key) for key in definitions}
    assert alone["c"] == {"string", "integer", "null"}
    for order in itertools.permutations(definitions):
        document = Document(parameters)
        assert {key: document.types(document.argument(key)) for key in order} == alone


@pytest.mark.parametrize("more", [{}, {"title": "each its own"}])
def test_parts_that_are_the_same_are_compared_once(more: Any) -> None:
    values = [str(number) for number in range(20_000)]
    begun = time.process_time()
    parts = [{"$ref": "#/$defs/one", **more} for _ in range(64)]
    document = Document({"properties": {"a": {"allOf": parts}}, "$defs": {"one": {"enum": values}}})
    assert document.flat(document.argument("a"))["enum"] is values
    assert time.process_time() - begun < 0.25
