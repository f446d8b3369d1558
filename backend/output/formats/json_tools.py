"""Hermes, Qwen 2.5 and Qwen 3: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

import json
from typing import Any

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_calls import CallObjectReader
from backend.output.calls.json_text import NotACall
from backend.output.calls.schema import ToolSchemas


def calls_of(value: Any) -> tuple[Call, ...]:
    """Calls of a decoded object, or of a list of them. `parameters` is read as `arguments`.

    Raises:
        NotACall: There is none, or a name or its arguments are missing or of the wrong kind.
    """
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) for item in items):
        raise NotACall("no call object")
    return tuple(
        Call.of(
            item.get("name"),
            item.get("arguments", item.get("parameters")),
            item.get("id", ""),
        )
        for item in items
    )


class JsonTools(CallFormat):
    """The body of the markers is JSON."""

    name = "json_tools"
    starts = ("<tool_call>",)
    markers = ("<tool_call>", "</tool_call>")

    def reader(self, start: str, tools: ToolSchemas) -> CallObjectReader:
        return CallObjectReader("</tool_call>")

    def frame(self, name: str) -> tuple[str, str]:
        return (
            f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": ',
            "}\n</tool_call>",
        )


FORMAT = JsonTools()
