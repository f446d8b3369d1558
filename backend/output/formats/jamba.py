"""Jamba, Apriel: `<tool_calls>[{"name": ..., "arguments": {...}}, ...]</tool_calls>`; MiniMax M1 without the list."""

from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls("jamba", ("<tool_calls>",), "</tool_calls>", ("<tool_calls>[", "]</tool_calls>"), between=", ")
