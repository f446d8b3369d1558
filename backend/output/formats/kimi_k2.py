"""Kimi K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}`."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import NUMBER, CallFormat
from backend.output.calls.json_calls import HeaderCallReader, begun_header
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tags import begun

_SECTION, _END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_HEADER = re.compile(rf"\s*(?P<id>(?:functions\.)?(?P<name>[^\s:<]+):\d+)\s*{re.escape(_ARGUMENTS)}")
_BEGUN = re.compile(rf"\s*(?:[^\s:<]+(?::(?:\d+\s*{begun(_ARGUMENTS)})?)?)?")


def header(body: str, at: int) -> tuple[str, str, int] | None:
    """The function and its id, which the chat template needs to see again."""
    match = begun_header(_HEADER, _BEGUN, body, at)
    return (match["name"], match["id"], match.end()) if match else None


class KimiK2(CallFormat):
    """Each call of a section has an id of its own and JSON arguments."""

    name = "kimi_k2"
    writable = re.compile(r"[^\s:<]{1,256}")
    starts = (_SECTION,)
    markers = (_SECTION, _CALL, _ARGUMENTS, _CALL_END, _END)
    sections = (CallSection(trigger=_SECTION, begin=_SECTION, end=_END, between=""),)

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(_CALL, _CALL_END, _END, lambda at: HeaderCallReader(header, (_CALL_END,), at=at))

    def frame(self, name: str) -> tuple[str, str]:
        return f"{_CALL}functions.{name}:{NUMBER}{_ARGUMENTS}", _CALL_END


FORMAT = KimiK2()
