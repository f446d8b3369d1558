"""Kimi K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}`."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import NUMBER, CallFormat
from backend.output.calls.json_calls import HeaderCallReader, begun_header
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tags import begun

_HEADER = re.compile(r"\s*(?P<id>(?:functions\.)?(?P<name>[^\s:<]+):\d+)\s*<\|tool_call_argument_begin\|>")
_BEGUN = re.compile(r"\s*(?:[^\s:<]+(?::(?:\d+\s*" + begun("<|tool_call_argument_begin|>") + ")?)?)?")


def header(body: str, at: int) -> tuple[str, str, int] | None:
    """The function and its id, which the chat template needs to see again."""
    match = begun_header(_HEADER, _BEGUN, body, at)
    return (match["name"], match["id"], match.end()) if match else None


class KimiK2(CallFormat):
    """Each call of a section has an id of its own and JSON arguments."""

    name = "kimi_k2"
    writable = re.compile(r"[^\s:<]{1,256}")
    starts = ("<|tool_calls_section_begin|>",)
    markers = (
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    )

    @property
    def sections(self) -> tuple[CallSection, ...]:
        return (CallSection(trigger=self.markers[0], begin=self.markers[0], end=self.markers[-1], between=""),)

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        stop = "<|tool_call_end|>"
        return BlockReader(
            "<|tool_call_begin|>", stop, self.markers[-1], lambda at: HeaderCallReader(header, (stop,), at=at)
        )

    def frame(self, name: str) -> tuple[str, str]:
        begin = f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:{NUMBER}<|tool_call_argument_begin|>"
        return begin, "<|tool_call_end|><|tool_calls_section_end|>"


FORMAT = KimiK2()
