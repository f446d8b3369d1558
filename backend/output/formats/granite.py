"""Granite 3: `<|tool_call|>[{"name": ..., "arguments": {...}}, ...]`, without an end marker."""

from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls("granite", ("<|tool_call|>", "<tool_call>"), "", ("<|tool_call|>[", "]"), between=", ")
