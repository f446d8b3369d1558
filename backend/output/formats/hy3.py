"""Hy3: `<tool_calls><tool_call>NAME<tool_sep><arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>...`."""

from backend.core.call_shape import CallSection
from backend.output.calls.arg_keys import arg_key_tags
from backend.output.calls.tag_formats import TagBlockFormat

SEPARATOR = "<tool_sep>"
_SECTION, _CALL, _CALL_END, _END = "<tool_calls>", "<tool_call>", "</tool_call>", "</tool_calls>"


class Hy3(TagBlockFormat):
    """The schema tells which values are strings; other values are JSON or Python literals."""

    name = "hy3"
    starts = (_SECTION,)
    markers = (_SECTION, _CALL, SEPARATOR, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", _CALL_END, _END)
    sections = (CallSection(trigger=_SECTION, begin=f"{_SECTION}\n", end=f"\n{_END}", between="\n"),)
    tags = arg_key_tags(separator=SEPARATOR, held=True)
    block = (_CALL, _CALL_END)


FORMAT = Hy3()
