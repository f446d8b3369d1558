"""Two schemas as one: exactly what fits both, or none."""

import itertools
import random
from typing import Any

import jsonschema
import pytest

from backend.output.calls.merging import equal, merged

VALUES: list[Any] = [
    *(None, True, False, 0, 1, 1.5, 3, 7, "", "a", "ab", "abc", [], [1], ["a", 2]),
    *({}, {"a": 1}, {"a": "x", "b": 2}, {"b": 1}, {"c": True}),
]
KEYWORDS: dict[str, list[Any]] = {
    "type": ["string", "integer", "number", "object", "array", ["string", "null"], ["integer", "null"], "boolean"],
    "minLength": [1, 2],
    "maxLength": [1, 2],
    "minimum": [1, 2.5],
    "maximum": [1, 5],
    "exclusiveMaximum": [3, 7],
    "enum": [["a", 1, None], ["a", True], [1.0, "ab"]],
    "const": ["a", 1, True],
    "pattern": ["^a", "b$"],
    "required": [["a"], ["b"]],
    "properties": [{"a": {"type": "integer"}}, {"b": {"type": "integer"}}, {"a": {"type": "string"}}],
    "additionalProperties": [False, {"type": "boolean"}],
    "patternProperties": [{"^a": {"type": "integer"}}],
    "items": [{"type": "integer"}, {"type": "string"}],
    "prefixItems": [[{"type": "string"}]],
    "minItems": [1, 2],
    "contains": [{"type": "integer"}],
    "minContains": [0, 2],
    "not": [{"type": "null"}, {"const": "a"}],
    "if": [{"type": "string"}],
    "then": [{"maxLength": 1}],
    "else": [{"type": "integer"}],
    "anyOf": [[{"type": "string"}, {"minimum": 2}], [{"maxLength": 1}]],
    "allOf": [[{"type": "string"}], [{"maxLength": 1}]],
    "title": ["T", "U"],
}


def some(rng: random.Random) -> dict[str, Any]:
    return {keyword: rng.choice(KEYWORDS[keyword]) for keyword in rng.sample(sorted(KEYWORDS), rng.randint(0, 3))}


def fits(value: Any, schema: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def test_what_is_merged_takes_exactly_what_both_take() -> None:
    rng, joined = random.Random(1), 0
    for _ in range(600):
        first, second = some(rng), some(rng)
        both = merged(first, second)
        if both is None:
            continue
        joined += bool(first and second)
        for value in VALUES:
            assert fits(value, both) is (fits(value, first) and fits(value, second)), (first, second, both, value)
    assert joined > 200


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"pattern": "^a"}, {"pattern": "b$"}),
        ({"properties": {"a": {}}}, {"properties": {"a": {"type": "string"}}}),
        ({"properties": {"a": {}}}, {"additionalProperties": False}),
        ({"items": {}}, {"prefixItems": [{}]}),
        ({"if": {}}, {"then": {}}),
        ({"const": 1}, {"const": True}),
        ({"enum": list(range(40))}, {"enum": list(range(1, 41))}),
        ({"type": "string"}, {"type": "null"}),
    ],
)
def test_what_no_one_schema_says_is_not_merged(first: Any, second: Any) -> None:
    assert merged(first, second) is None
    assert merged(second, first) is None


def test_values_are_equal_as_json_is() -> None:
    values = [0, False, 1, True, None, "", "1", [], [1], [True], {}, {"a": 1}, {"a": True}, {"a": [0]}]
    for (i, one), (j, other) in itertools.product(enumerate(values), repeat=2):
        assert equal(one, other) is (i == j)
    assert equal({"a": [1.0]}, {"a": [1]})
