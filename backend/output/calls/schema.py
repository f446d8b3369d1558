"""Argument types from the tools that a request offers, for formats that write every value as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backend.output.calls.json_text import load_json
from backend.output.calls.literals import read_literal

_JSON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}
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
_MAX_DEPTH = 16


class ToolSchemas:
    """The offered tools' parameter schemas, by function name. Reads anything: tools are client data."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._parameters: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                parameters = function.get("parameters")
                self._parameters[function["name"]] = parameters if isinstance(parameters, Mapping) else {}

    @property
    def names(self) -> tuple[str, ...]:
        """The functions, in the order offered."""
        return tuple(self._parameters)

    def parameters(self, function: str) -> Mapping[str, Any]:
        """The JSON schema of a function's arguments; empty if unknown."""
        return self._parameters.get(function, {})

    def types(self, function: str, argument: str) -> frozenset[str]:
        """JSON types that the schema allows for an argument; empty if it does not say."""
        root = self.parameters(function)
        properties = root.get("properties")
        if not isinstance(properties, Mapping):
            return frozenset()
        return frozenset(_types(properties.get(argument), root, 0))


def schema_types(schema: Mapping[str, Any], root: Mapping[str, Any]) -> frozenset[str]:
    """JSON types that a schema allows; empty if it does not say."""
    return frozenset(_types(schema, root, 0))


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a local `$ref` stands for; itself if it is none, or leads nowhere."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema.get("$ref"), str):
            break
        found = _resolve(schema["$ref"], root)
        if not isinstance(found, Mapping):
            break
        schema = found
    return schema


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> set[str]:
    """Types named by `type`, `const`, `enum`, local `$ref`s and unions."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return set()
    declared = schema.get("type")
    names = declared if isinstance(declared, list) else [declared]
    found = {_ALIASES.get(name.lower(), name.lower()) for name in names if isinstance(name, str)}
    if not found:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else []
        values = [*values, schema["const"]] if "const" in schema else values
        found = {_JSON_TYPES.get(type(value), "null") for value in values}
    for union in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(union)
        for choice in choices if isinstance(choices, list) else ():
            found |= _types(choice, root, depth + 1)
    if isinstance(schema.get("$ref"), str):
        found |= _types(_resolve(schema["$ref"], root), root, depth + 1)
    return found


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    node: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def typed(text: str, types: frozenset[str], *, guess: bool) -> Any:
    """The value that `text` stands for under the schema's types.

    Most specific first: null, integer, number, boolean, object or array, string; text that fits none stays
    text. Without types, `guess` reads JSON or a Python literal and otherwise keeps the text.
    """
    if not types:
        return read_guess(text) if guess else None if text == "null" else text
    if text.strip().lower() == "null" and ("null" in types or "string" not in types):
        return None
    for kind in ("integer", "number", "boolean", "object", "array"):
        if kind in types:
            value = _as(kind, text.strip())
            if value is not None:
                return value
    return text


def _as(kind: str, text: str) -> Any:
    """`text` as a JSON type, or None."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.lower())
    value = read_guess(text)
    match kind, value:
        case _, bool():
            return None
        case "integer", float() if value.is_integer():
            return int(value)
        case "number", float() if value.is_integer():
            return int(value)
        case ("integer", int()) | ("number", int() | float()) | ("object", dict()) | ("array", list()):
            return value
        case _:
            return None


def one_line_less(text: str) -> str:
    """`text` without one line break at each end, which belongs to the markup."""
    return text.removeprefix("\n").removesuffix("\n")


def read_guess(text: str) -> Any:
    """JSON, or else a Python literal, or else the text itself."""
    for read in (_read_json, _read_python):
        try:
            value = read(text)
        except (ValueError, IndexError, RecursionError):
            continue
        return text if isinstance(value, float) and not math.isfinite(value) else value
    return text


def _read_json(text: str) -> Any:
    return load_json(text)


def _read_python(text: str) -> Any:
    value, end = read_literal(text, 0)
    if text[end:].strip():
        raise ValueError("more than a literal")
    return value
