"""Hunyuan A13B: `<tool_calls>[{"name": ..., "arguments": {...}}, ...]</tool_calls>`, answers in `<answer>` tags."""

import json

from backend.output.calls.call_format import CallFormat
from backend.output.calls.json_calls import CallObjectReader
from backend.output.calls.schema import ToolSchemas


class Hunyuan(CallFormat):
    """All calls of a turn are one list."""

    name = "hunyuan"
    starts = ("<tool_calls>",)
    markers = ("<tool_calls>", "<answer>", "</answer>", "</tool_calls>")
    ignored = ("<answer>", "</answer>")

    def reader(self, start: str, tools: ToolSchemas) -> CallObjectReader:
        return CallObjectReader("</tool_calls>")

    def frame(self, name: str) -> tuple[str, str]:
        return f'<tool_calls>[{{"name": {json.dumps(name)}, "arguments": ', "}]</tool_calls>"


FORMAT = Hunyuan()
