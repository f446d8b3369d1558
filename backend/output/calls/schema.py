"""Argument types from the tools that a request offers, for formats that write every value as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backend.core.call_shape import NotForceable
from backend.output.calls.json_text import load_json
from backend.output.calls.literals import whole_literal
from backend.output.calls.references import Document


class ToolSchemas:
    """The offered tools' parameter schemas, by function name. Reads anything: tools are client data."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._parameters: dict[str, Any] = {}
        self._documents: dict[str, Document] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                self._parameters[function["name"]] = function.get("parameters")

    @property
    def names(self) -> tuple[str, ...]:
        """The functions, in the order offered."""
        return tuple(self._parameters)

    def parameters(self, function: str) -> Any:
        """What a tool says of its arguments, a JSON schema of them if it is right; None if it says nothing."""
        return self._parameters.get(function)

    def types(self, function: str, argument: str) -> frozenset[str]:
        """JSON types that the schema allows for an argument; empty if it does not say."""
        document = self._document(function)
        try:
            return document.types(document.argument(argument))
        except NotForceable:
            return frozenset()

    def declared(self, function: str) -> frozenset[str]:
        """The arguments that the schema names; none if it does not say."""
        return self._document(function).declared()

    def _document(self, function: str) -> Document:
        if function not in self._documents:
            self._documents[function] = Document(self.parameters(function))
        return self._documents[function]


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
    for read in (load_json, whole_literal):
        try:
            value = read(text)
        except (ValueError, IndexError, RecursionError):
            continue
        return text if isinstance(value, float) and not math.isfinite(value) else value
    return text
