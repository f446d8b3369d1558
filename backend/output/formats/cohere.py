"""Command R7B and Command A: `<|START_ACTION|>[{"tool_call_id": ..., "tool_name": ..., "parameters": {...}}]`.

The templates number the calls of a conversation anew, so the model's own ids mean nothing beyond its answer.
"""

from backend.output.calls.call_format import NUMBER
from backend.output.calls.call_objects import CallKeys
from backend.output.choice import COMMAND_THINK
from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls(
    "cohere",
    ("<|START_ACTION|>",),
    "<|END_ACTION|>",
    ("<|START_ACTION|>[\n    ", "\n]<|END_ACTION|>"),
    between=",\n    ",
    keys=CallKeys(name="tool_name", id=""),
    first=f'"tool_call_id": "{NUMBER}", ',
    arguments="parameters",
    others=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    think=COMMAND_THINK,
)
