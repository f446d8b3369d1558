"""Kimi K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}`."""

import re

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas, read_guess

_CALL = re.compile(
    r"\s*(?P<id>(?:functions\.)?(?P<name>[^\s:<]+):\d+)\s*<\|tool_call_argument_begin\|>(?P<arguments>.*)", re.DOTALL
)


def parse(item: str) -> Call:
    """One call; its id is the model's, which the chat template needs to see again.

    Raises:
        NotACall: It has no name, or arguments that are no object.
    """
    match = _CALL.fullmatch(item)
    if match is None:
        raise NotACall("no name")
    arguments = match["arguments"].strip()
    return Call.of(match["name"], read_guess(arguments) if arguments else {}, match["id"])


class KimiK2(CallFormat):
    """Each call of a section has an id of its own and JSON arguments."""

    name = "kimi_k2"
    starts = ("<|tool_calls_section_begin|>",)
    markers = (
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    )

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(("<|tool_call_begin|>", "<|tool_call_end|>"), "<|tool_calls_section_end|>", parse)

    def frame(self, name: str) -> tuple[str, str]:
        begin = f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>"
        return begin, "<|tool_call_end|><|tool_calls_section_end|>"


FORMAT = KimiK2()
