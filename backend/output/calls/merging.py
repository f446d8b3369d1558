"""Two schemas that both hold, as one. Pure."""

import math
from collections.abc import Callable, Mapping
from typing import Any

Json = Mapping[str, Any]

# They hold nothing; the outer one counts. The last two are carried along from the whole document.
ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "$id",
        "$anchor",
        "$schema",
        "x-guidance",
        "$defs",
        "definitions",
    }
)
# A keyword of a group means what it does by the others beside it.
_GROUPS = (
    (
        frozenset({"properties", "patternProperties", "additionalProperties", "unevaluatedProperties"}),
        frozenset({"properties"}),
    ),
    (frozenset({"items", "prefixItems", "additionalItems", "unevaluatedItems"}), frozenset[str]()),
    (frozenset({"contains", "minContains", "maxContains"}), frozenset[str]()),
    (frozenset({"if", "then", "else"}), frozenset[str]()),
)
# Longer lists are not joined: of a few long ones, many schemas could be made.
_MOST = 64
_LEAST_OF = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_GREATEST_OF = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})


def merged(first: Json, second: Json) -> Json | None:
    """What fits both; annotations are the second's. None where no single schema says so, or it would be long."""
    for group, apart in _GROUPS:
        one, other = group & first.keys(), group & second.keys()
        if one and other and not (one | other) <= apart:
            return None
    found = {**first, **second}
    for key in (first.keys() & second.keys()) - ANNOTATIONS:
        if equal(first[key], second[key]):
            continue
        joined = _joined(key, first[key], second[key])
        if joined is None:
            return None
        found[key] = joined
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, but not true."""
    if one is other:
        return True
    match one, other:
        case (bool(), _) | (_, bool()):
            return False
        case dict(), dict():
            return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
        case list(), list():
            return len(one) == len(other) and all(map(equal, one, other))
        case _:
            return one == other


def common_types(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """The types that are in both; an integer is a number too."""
    narrower = ("integer" in one and "number" in other) or ("integer" in other and "number" in one)
    return one & other | ({"integer"} if narrower else set[str]())


def type_names(value: Any) -> frozenset[str]:
    """What `type` names, one or a list."""
    names = value if isinstance(value, list) else [value]
    return frozenset(_ALIASES.get(name.lower(), name.lower()) for name in names if isinstance(name, str))


_ALIASES = {
    "str": "string",
    "text": "string",
    "varchar": "string",
    "char": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "arr": "array",
    "dict": "object",
}


def _joined(key: str, one: Any, other: Any) -> Any:
    """One value of a keyword that says what two do, or None."""
    if key in _LEAST_OF | _GREATEST_OF:
        choose: Callable[[Any, Any], Any] = min if key in _LEAST_OF else max
        return choose(one, other) if _is_number(one) and _is_number(other) else None
    if key == "type":
        return sorted(common_types(type_names(one), type_names(other))) or None
    if key == "properties":
        apart = isinstance(one, dict) and isinstance(other, dict) and one.keys().isdisjoint(other)
        return {**one, **other} if apart and _short(one, other) else None
    if not (isinstance(one, list) and isinstance(other, list) and _short(one, other)):
        return None
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key == "enum":
        return [value for value in one if any(equal(value, each) for each in other)]
    return [*one, *other] if key == "allOf" else None


def _short(one: Any, other: Any) -> bool:
    return len(one) + len(other) <= _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
