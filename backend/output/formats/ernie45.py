"""Ernie 4.5: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, answers in `<response>` tags."""

from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls(
    "ernie45",
    ("<tool_call>",),
    "</tool_call>",
    ("<tool_call>\n", "\n</tool_call>"),
    again="\n",
    others=("<response>", "</response>"),
)
