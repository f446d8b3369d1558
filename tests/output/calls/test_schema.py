"""Types of arguments that the format writes as text."""

import json
import sys
from typing import Any

import pytest

from backend.output.calls.json_text import NotACall, dump_json, load_json
from backend.output.calls.literals import read_literal
from backend.output.calls.schema import ToolSchemas, read_guess, typed


def types_of(schema: Any, **root: Any) -> frozenset[str]:
    tool = {"function": {"name": "f", "parameters": {"properties": {"a": schema}, **root}}}
    return ToolSchemas([tool]).types("f", "a")


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": "Dict"}, {"object"}),
        (
            {"enum": ["a", 1, None, True, 1.5, [], {}]},
            {"string", "integer", "null", "boolean", "number", "array", "object"},
        ),
        ({"const": "a"}, {"string"}),
        ({"anyOf": [{"type": "string"}, {"oneOf": [{"type": "null"}]}]}, {"string", "null"}),
        ({"$ref": "#/$defs/x"}, {"boolean"}),
        ({"$ref": "#/properties/a"}, set()),
        ({}, set()),
        (None, set()),
        ({"type": 3, "enum": 4, "anyOf": 5}, set()),
    ],
)
def test_the_schema_says_which_types_an_argument_has(schema: Any, types: set[str]):
    assert types_of(schema, **{"$defs": {"x": {"type": "boolean"}}}) == types


@pytest.mark.parametrize("tool", [{}, {"function": None}, {"function": {"name": 3}}, {"function": {"name": "f"}}])
def test_tools_of_any_shape_are_read(tool: Any):
    assert ToolSchemas([tool]).types("f", "a") == frozenset()


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("12", "string", "12"),
        ("12", "integer", 12),
        ("12.0", "integer", 12),
        ("12.5", "integer", "12.5"),
        ("2.5", "number", 2.5),
        ("5.0", "number", 5),
        ("True", "boolean", True),
        ("false", "boolean", False),
        ("null", "integer", None),
        ("null", "string", "null"),
        ('{"a": 1}', "object", {"a": 1}),
        ("{'a': None}", "object", {"a": None}),
        ("[1, 2]", "array", [1, 2]),
        ("{broken", "object", "{broken"),
        ("true", "integer", "true"),
        ("1e999", "number", int(sys.float_info.max)),
        ("NaN", "number", "NaN"),
    ],
)
def test_text_becomes_a_value_of_the_declared_type_or_stays_text(text: str, types: str, value: Any):
    result = typed(text, frozenset([types]), guess=False)
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("007", "007"),
        ("1_000", 1000),
        ("+1.5", 1.5),
        ("true", True),
        ("None", None),
        ("[1, 'a', {'b': (2, 3)}]", [1, "a", {"b": [2, 3]}]),
        ("'it\\'s \\u00e9 \\x41 \\ud83c\\udf0d\\n\\d'", "it's \u00e9 A \U0001f30d\n\\d"),
        ('"""a "b" c"""', 'a "b" c'),
        ("{1: 2}", {"1": 2}),
        ("Paris", "Paris"),
        ("1 2", "1 2"),
        ("[1, 2", "[1, 2"),
        ("'open", "'open"),
        ("f(1)", "f(1)"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_text_without_a_type_is_json_or_a_python_literal_or_itself(text: str, value: Any):
    result = read_guess(text)
    assert (result, type(result)) == (value, type(value))


def test_a_literal_says_where_it_ends():
    assert read_literal("x=[1, 2] + 3", 2) == ([1, 2], 8)


def test_json_out_is_valid_whatever_the_model_wrote():
    assert dump_json({"a": "\u00e9\U0001f30d"}) == '{"a": "\u00e9\U0001f30d"}'
    assert json.loads(dump_json({"a": "\ud800"}).encode()) == {"a": "\ud800"}
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (float("nan"), float("inf"), {1, 2}, deep):
        with pytest.raises(NotACall):
            dump_json(value)


def test_json_in_allows_line_breaks_in_strings_and_bounds_depth():
    assert load_json('{"a": "b\nc"}') == {"a": "b\nc"}
    for text in ("[" * 100_000, "{", "9" * 5000):
        with pytest.raises(NotACall):
            load_json(text)
