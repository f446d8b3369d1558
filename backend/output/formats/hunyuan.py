"""Hunyuan A13B: `<tool_calls>[{"name": ..., "arguments": {...}}, ...]</tool_calls>`, answers in `<answer>` tags."""

from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls(
    "hunyuan",
    ("<tool_calls>",),
    "</tool_calls>",
    ("<tool_calls>[", "]</tool_calls>"),
    between=", ",
    others=("<answer>", "</answer>"),
)
