"""Qwen 3 Coder, Qwen 3.5: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`."""

import re

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import DelimitedReader, balanced, begins
from backend.output.calls.schema import ToolSchemas, one_line_less, typed

_FUNCTION = re.compile(r"\s*<function=\s*([^\s<>]+)\s*>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=\s*([^\s<>]+)\s*>(.*?)</parameter>", re.DOTALL)


def parse(body: str, tools: ToolSchemas) -> tuple[Call, ...]:
    """The one call between the markers.

    Raises:
        NotACall: There is something else than a function with its parameters.
    """
    function = _FUNCTION.fullmatch(body)
    if function is None:
        raise NotACall("no function")
    name, rest = function.groups()
    arguments: dict[str, object] = {}
    at = 0
    while parameter := _PARAMETER.match(rest, at):
        key, value = parameter.groups()
        arguments[key] = typed(one_line_less(value), tools.types(name, key), guess=False)
        at = parameter.end()
    if skip_blank(rest, at) != len(rest):
        raise NotACall("something between the parameters")
    return (Call.of(name, arguments),)


class Qwen3Coder(CallFormat):
    """Values are text; their types come from the tool's schema. Line breaks around a value are not part of it."""

    name = "qwen3_coder"
    starts = ("<tool_call>",)
    markers = ("<tool_call>", "</tool_call>")

    def reader(self, start: str, tools: ToolSchemas) -> DelimitedReader:
        return DelimitedReader(
            "</tool_call>",
            lambda body: parse(body, tools),
            opens=lambda body: begins(body, ("<function=",), skip_blank(body, 0)),
            closes=balanced("<parameter=", "</parameter>"),
        )


FORMAT = Qwen3Coder()
