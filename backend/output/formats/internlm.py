"""InternLM: `<|action_start|><|plugin|>{"name": ..., "parameters": {...}}<|action_end|>`."""

from backend.output.formats.json_tools import JsonCalls

_START, _END = "<|action_start|><|plugin|>", "<|action_end|>"
FORMAT = JsonCalls(
    "internlm",
    (_START, "<|action_start|> <|plugin|>"),
    _END,
    (f"{_START}\n", _END),
    again="",
    arguments="parameters",
)
