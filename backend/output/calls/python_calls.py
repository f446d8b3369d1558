"""Calls in Python's notation: `NAME(key="text", other=2)`."""

import re
from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import Fixed, JsonValue, Member, Members, NotForceable, Shape
from backend.output.calls.argument_lists import CallSyntax, Quote
from backend.output.calls.forcing import argument_shapes
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import read_literal, skip_blank

_FUNCTION = re.compile(r"[^\W\d][\w.]*")
_ARGUMENT = re.compile(r"[^\W\d]\w{0,255}")


def literal(text: str) -> Any:
    """The value that a text is, in Python's notation or JSON's.

    Raises:
        ValueError, IndexError: It is none.
    """
    value, end = read_literal(text, 0)
    if skip_blank(text, end) != len(text):
        raise NotACall("more than a literal")
    return value


SYNTAX = CallSyntax(
    head=re.compile(r"\s*(?P<name>[^\W\d][\w.]*)\s*\("),
    head_begun=re.compile(r"\s*(?:[^\W\d][\w.]*\s*)?"),
    key=re.compile(r"\s*(?P<key>[^\W\d]\w*)\s*=(?=\s*[^\s=])"),
    key_begun=re.compile(r"\s*(?:[^\W\d]\w*\s*(?:=\s*)?)?"),
    close=")",
    brackets="([{",
    quotes=(Quote('"""', '"""'), Quote("'''", "'''"), Quote('"', '"'), Quote("'", "'")),
    value=literal,
)


def python_shape(name: str, parameters: Mapping[str, Any]) -> Shape:
    """A call with arguments that fit a schema; values are written as JSON, which is read alike.

    Raises:
        NotForceable: The function's name or an argument's cannot be written, or the schema is not one of arguments.
    """
    if _FUNCTION.fullmatch(name) is None:
        raise NotForceable("its name cannot be written")
    shapes = argument_shapes(parameters, _ARGUMENT, lambda schema: (JsonValue(schema),))
    members = tuple(Member((Fixed(f"{key}="), *value), required) for key, value, required in shapes)
    return Fixed(f"{name}("), Members(members, ", "), Fixed(")")
