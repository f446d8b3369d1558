"""LFM2 and other Python-like calls: `<|tool_call_start|>[NAME(key="text", other=2), ...]<|tool_call_end|>`."""

import re
from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import Fixed, JsonValue, Member, Members, Shape
from backend.output.calls.call_format import Call, CallFormat, NotForceable
from backend.output.calls.forcing import argument_shapes
from backend.output.calls.json_text import NotACall, load_json
from backend.output.calls.literals import read_literal, skip_blank
from backend.output.calls.readers import DelimitedReader, begins, complete
from backend.output.calls.schema import ToolSchemas
from backend.output.formats.json_tools import calls_of

_CALL = re.compile(r"\s*([A-Za-z_][\w.]*)\s*\(\s*")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*")
_ARGUMENT = re.compile(r"[A-Za-z_]\w*")
_KEY = re.compile(r"([A-Za-z_]\w*)\s*=\s*")


def parse(body: str) -> tuple[Call, ...]:
    """The calls of a list. A list of JSON call objects is read too.

    Raises:
        ValueError, IndexError: It is no list of calls with named literal arguments.
    """
    body = body.strip()
    if not body.startswith("["):
        raise NotACall("no list")
    if body[skip_blank(body, 1)] == "{":
        return calls_of(load_json(body))
    calls: list[Call] = []
    at = 1
    while match := _CALL.match(body, at):
        arguments, at = _arguments(body, match.end())
        calls.append(Call.of(match[1], arguments))
        at = skip_blank(body, at)
        if body[at] == ",":
            at += 1
        elif body[at] != "]":
            raise NotACall("no comma between calls")
    at = skip_blank(body, at)
    if not calls or body[at] != "]" or at != len(body) - 1:
        raise NotACall("no call")
    return tuple(calls)


def _arguments(text: str, at: int) -> tuple[dict[str, object], int]:
    """Arguments from after the opening parenthesis; the position after the closing one."""
    arguments: dict[str, object] = {}
    while text[at] != ")":
        match = _KEY.match(text, at)
        if match is None:
            raise NotACall("an argument without a name")
        arguments[match[1]], at = read_literal(text, match.end())
        at = skip_blank(text, at)
        if text[at] == ",":
            at = skip_blank(text, at + 1)
        elif text[at] != ")":
            raise NotACall("no comma between arguments")
    return arguments, at + 1


class Pythonic(CallFormat):
    """Arguments are Python or JSON literals."""

    name = "pythonic"
    starts = ("<|tool_call_start|>",)
    markers = ("<|tool_call_start|>", "<|tool_call_end|>")

    def reader(self, start: str, tools: ToolSchemas) -> DelimitedReader:
        return DelimitedReader(
            "<|tool_call_end|>",
            parse,
            opens=lambda body: begins(body, ("[",), skip_blank(body, 0)),
            closes=complete(parse),
        )

    def shape(self, name: str, parameters: Mapping[str, Any]) -> Shape:
        if _FUNCTION.fullmatch(name) is None:
            raise NotForceable("its name cannot be written")
        shapes = argument_shapes(parameters, _ARGUMENT, lambda schema: (JsonValue(schema),))
        members = tuple(Member((Fixed(f"{key}="), *value), required) for key, value, required in shapes)
        return Fixed(f"<|tool_call_start|>[{name}("), Members(members, ", "), Fixed(")]<|tool_call_end|>")


FORMAT = Pythonic()
