"""Phi-4-mini: `<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>`, or `functools[...]`."""

from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls(
    "phi4_mini",
    ("<|tool_call|>", "functools"),
    "<|/tool_call|>",
    ("<|tool_call|>[", "]<|/tool_call|>"),
    between=", ",
)
