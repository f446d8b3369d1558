"""Hy3: `<tool_calls><tool_call>NAME<tool_sep><arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>...`."""

from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import CallSection, Shape
from backend.output.calls.arg_keys import arg_key_tags
from backend.output.calls.call_format import CallFormat
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tag_values import tagged_shape

SEPARATOR = "<tool_sep>"
_SECTION, _CALL, _CALL_END, _END = "<tool_calls>", "<tool_call>", "</tool_call>", "</tool_calls>"
TAGS = arg_key_tags(separator=SEPARATOR, held=True)


class Hy3(CallFormat):
    """The schema tells which values are strings; other values are JSON or Python literals."""

    name = "hy3"
    starts = (_SECTION,)
    markers = (_SECTION, _CALL, SEPARATOR, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", _CALL_END, _END)
    sections = (CallSection(trigger=_SECTION, begin=f"{_SECTION}\n", end=f"\n{_END}", between="\n"),)

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(_CALL, _CALL_END, _END, lambda at: TagReader(TAGS, tools, at))

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return tagged_shape(TAGS, name, parameters)


FORMAT = Hy3()
