"""Calls in Python's notation: `NAME(key="text", other=2)`."""

import re
from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import (
    Fixed,
    FreeText,
    JsonValue,
    Member,
    Members,
    NotForceable,
    Repeated,
    Shape,
    TextLimits,
)
from backend.output.calls.argument_lists import CallSyntax, Quote
from backend.output.calls.forcing import argument_shapes
from backend.output.calls.literals import whole_literal

# Letters of any script, marks on them, and hyphens: Python has none of those in names, but functions do. The parts have
# no character in common: a name that does not end rightly would be tried in every way.
_NAME = r"[^\W\d](?:[A-Za-z0-9_-]|[^\x00-\x7f\s])*"
_DOTTED = r"[^\W\d](?:[A-Za-z0-9_.-]|[^\x00-\x7f\s])*"
_FUNCTION, _ARGUMENT = re.compile(_DOTTED), re.compile(rf"(?=.{{1,256}}\Z){_NAME}", re.DOTALL)


SYNTAX = CallSyntax(
    head=re.compile(rf"\s*(?P<name>{_DOTTED})\s*\("),
    head_begun=re.compile(rf"\s*(?:{_DOTTED}\s*)?"),
    key=re.compile(rf"\s*(?P<key>{_NAME})\s*=(?=\s*[^\s=])"),
    key_begun=re.compile(rf"\s*(?:{_NAME}\s*(?:=\s*)?)?"),
    close=")",
    brackets="([{",
    quotes=(Quote('"""', '"""'), Quote("'''", "'''"), Quote('"', '"'), Quote("'", "'")),
    value=whole_literal,
)


def python_shape(name: str, parameters: Mapping[str, Any] | None) -> Shape:
    """A call with arguments that fit a schema, or any; values are written as JSON, which is read alike.

    Raises:
        NotForceable: The function's name or an argument's cannot be written, or the schema is not one of arguments.
    """
    if _FUNCTION.fullmatch(name) is None:
        raise NotForceable("its name cannot be written")
    if parameters is None:
        key = FreeText(end="=", limits=(TextLimits(pattern="[A-Za-z_][A-Za-z0-9_]{0,63}"),))
        return Fixed(f"{name}("), Repeated((key, JsonValue({})), ", "), Fixed(")")
    shapes = argument_shapes(parameters, _ARGUMENT, lambda schema: (JsonValue(schema),))
    members = tuple(Member((Fixed(f"{key}="), *value), required) for key, value, required in shapes)
    return Fixed(f"{name}("), Members(members, ", "), Fixed(")")
