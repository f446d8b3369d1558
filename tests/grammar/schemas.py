"""Random JSON schemas of growing depth, bounded so that random answers end."""

import random
from typing import Any
from urllib.parse import quote

NO_SPACE = {"whitespace_flexible": False}
UNSUPPORTED = ("not", "if", "uniqueItems", "contains", "propertyNames", "dependentRequired")
_OTHER_ALPHABETS = ("gr\u00f6\u00dfe", "\u540d\u524d", "\u0446\u0432\u0435\u0442_2")
_ARGUMENTS = ("city", "days", "unit", "note", "tags", "point", "limit_2", "exact")
_WORDS = ("id", "name", "kind", "size", "tags", "owner", "note", "a b", 'q"', "\u00e9")


def random_schema(rng: random.Random, depth: int) -> dict[str, Any]:
    """A schema with at most `depth` levels below the first, without flexible whitespace."""
    return {**_schema(rng, depth), "x-guidance": NO_SPACE}


def random_parameters(rng: random.Random, depth: int) -> dict[str, Any]:
    """A schema of a tool's arguments, some of them optional, with names and values that every format can write."""
    names = rng.sample(_ARGUMENTS, rng.randint(1, 5))
    properties = {name: _schema(rng, depth) for name in names}
    required = [name for name in names if rng.random() < 0.6]
    whole = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {**whole, "x-guidance": NO_SPACE}


def linked_parameters(rng: random.Random, depth: int) -> dict[str, Any]:
    """As `random_parameters`, said in other ways: by `$ref`, unions of unlike types, open objects, other alphabets."""
    plain = random_parameters(rng, depth)
    others = list(_OTHER_ALPHABETS)
    names = {name: others.pop() if others and rng.random() < 0.2 else name for name in plain["properties"]}
    definitions: dict[str, Any] = {}
    properties = {names[name]: _said_otherwise(rng, each, definitions) for name, each in plain["properties"].items()}
    required = [names[name] for name in plain["required"]]
    moved = rng.random() < 0.3
    if rng.random() < 0.4:
        to = _pointer(rng, rng.choice(list(properties)))
        properties["again"] = {"$ref": f"#/$defs/Root~10/properties/{to}" if moved else f"#/properties/{to}"}
        required.append("again")
    root = {**plain, "properties": properties, "required": required}
    if rng.random() < 0.2:
        root["additionalProperties"] = True
    if moved:
        definitions["Root/0"] = {key: value for key, value in root.items() if key != "x-guidance"}
        root = {"$ref": "#/$defs/Root~10", "x-guidance": NO_SPACE}
    return {**root, **({"$defs": definitions} if definitions else {})}


def _said_otherwise(rng: random.Random, schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    match rng.randrange(8):
        case 0 | 1:
            name = rng.choice(("level", "a/b", "m~n", "50%", "\u00e9t\u00e9")) + str(len(definitions))
            definitions[name] = schema
            link = {"$ref": f"#/$defs/{_pointer(rng, name)}"}
            return rng.choice((link, {**link, "description": "x"}, {"allOf": [link], "default": None}))
        case 2:
            return {"allOf": [schema]}
        case 3:
            return {"oneOf": [{"type": "string", "maxLength": 4}, _integer(rng, 0), {"type": "null"}]}
        case 4:
            return {"type": [rng.choice(("string", "boolean")), "null"], "maxLength": 3}
        case 5:
            return {"anyOf": [schema, {"type": "null"}]}
        case 6:
            known = {"properties": {"id": {"type": "boolean"}}, "required": ["id"]}
            return {"type": "object", **known, "additionalProperties": True, "maxProperties": 2}
        case _:
            return schema


def _pointer(rng: random.Random, name: str) -> str:
    """A name as a part of a `$ref`, its characters as they are or as bytes in percent."""
    part = name.replace("~", "~0").replace("/", "~1")
    return quote(part, safe="~") if "%" in part or rng.random() < 0.5 else part


def unsupported_schema(rng: random.Random, depth: int) -> tuple[dict[str, Any], str]:
    """A schema with a keyword that llguidance refuses, and that keyword."""
    keyword = rng.choice(UNSUPPORTED)
    value: dict[str, Any] = {
        "not": {"type": "null"},
        "if": {"type": "string"},
        "uniqueItems": True,
        "contains": {"type": "integer"},
        "propertyNames": {"maxLength": 3},
        "dependentRequired": {"a": ["b"]},
    }
    schema = _array(rng, depth) if keyword in ("uniqueItems", "contains") else _object(rng, depth)
    return {**schema, keyword: value[keyword], "x-guidance": NO_SPACE}, keyword


def _schema(rng: random.Random, depth: int) -> dict[str, Any]:
    if depth > 0 and rng.random() < 0.75:
        return rng.choice((_object, _object, _array, _any_of))(rng, depth)
    return rng.choice((_string, _integer, _number, _enum, _constant, _simple, _pattern))(rng, depth)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_WORDS, rng.randint(1, 4))
    properties = {name: _schema(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(0, 2)
    return {"type": "array", "items": _schema(rng, depth - 1), "minItems": low, "maxItems": low + rng.randint(0, 2)}


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(rng, depth - 1) for _ in range(rng.randint(2, 3))]}


def _string(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.randint(0, 3)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 6)}


def _integer(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.randint(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)}


def _number(rng: random.Random, _: int) -> dict[str, Any]:
    return {"type": "number", "minimum": rng.randint(-9, 0), "exclusiveMaximum": rng.randint(1, 9)}


def _enum(rng: random.Random, _: int) -> dict[str, Any]:
    return {"enum": rng.sample(["red", "green", 1, 2.5, None, True, "x\ny"], rng.randint(1, 4))}


def _constant(rng: random.Random, _: int) -> dict[str, Any]:
    return {"const": rng.choice(["only", 7, [1, 2], {"k": "v"}])}


def _simple(rng: random.Random, _: int) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _pattern(rng: random.Random, _: int) -> dict[str, Any]:
    return {"type": "string", "pattern": rng.choice([r"^[a-z]{1,4}-\d{2}$", r"^(yes|no)$", r"^\w{2,5}$"])}
