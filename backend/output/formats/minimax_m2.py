"""MiniMax M2: `<minimax:tool_call><invoke name="..."><parameter name="...">VALUE</parameter></invoke>...`."""

import re

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import BlockReader, balanced
from backend.output.calls.schema import ToolSchemas, one_line_less, typed

_NAME = re.compile(r"\s*(?:\"([^\"<>]+)\"|'([^'<>]+)'|([^\s\"'<>]+))\s*>")
_PARAMETER = re.compile(r"\s*<parameter name=")


def parse(item: str, tools: ToolSchemas) -> Call:
    """One call, from after `<invoke name=` to before `</invoke>`.

    Raises:
        NotACall: There is something else than a name and parameters.
    """
    name, at = _name(item, 0)
    arguments: dict[str, object] = {}
    while parameter := _PARAMETER.match(item, at):
        key, at = _name(item, parameter.end())
        end = item.index("</parameter>", at)
        arguments[key] = typed(one_line_less(item[at:end]), tools.types(name, key), guess=False)
        at = end + len("</parameter>")
    if skip_blank(item, at) != len(item):
        raise NotACall("something between the parameters")
    return Call.of(name, arguments)


def _name(text: str, at: int) -> tuple[str, int]:
    match = _NAME.match(text, at)
    if match is None:
        raise NotACall("no name")
    return match[1] or match[2] or match[3], match.end()


class MinimaxM2(CallFormat):
    """Values are text; their types come from the tool's schema."""

    name = "minimax_m2"
    starts = ("<minimax:tool_call>",)
    markers = ("<minimax:tool_call>", "</minimax:tool_call>")

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(
            ("<invoke name=", "</invoke>"),
            "</minimax:tool_call>",
            lambda item: parse(item, tools),
            closes=balanced("<parameter name=", "</parameter>"),
        )


FORMAT = MinimaxM2()
