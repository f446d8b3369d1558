"""Step 3: sections of calls, each `function`, a separator and `<steptml:invoke name="...">` with its parameters."""

import re
from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import CallSection, Shape
from backend.output.calls.call_format import CallFormat
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tag_values import tagged_shape
from backend.output.calls.tags import Tags, begun

_NAME_BEGUN = r"[^\"<>]*(?:\"\s*>?)?"
_INVOKE, _PARAMETER = '<steptml:invoke name="', '<steptml:parameter name="'
_SECTION, _END = "<\uff5ctool_calls_begin\uff5c>", "<\uff5ctool_calls_end\uff5c>"
_CALL, _SEPARATOR, _CALL_END = "<\uff5ctool_call_begin\uff5c>", "<\uff5ctool_sep\uff5c>", "<\uff5ctool_call_end\uff5c>"
TAGS = Tags(
    head=re.compile(rf'function\s*{_SEPARATOR}\s*{_INVOKE}(?P<name>[^"<>]+)"\s*>'),
    head_begun=re.compile(begun("function", r"\s*" + begun(_SEPARATOR, r"\s*" + begun(_INVOKE, _NAME_BEGUN)))),
    opening=re.compile(rf'{_PARAMETER}(?P<key>[^"<>]+)"\s*>'),
    opening_begun=re.compile(begun(_PARAMETER, _NAME_BEGUN)),
    value_end="</steptml:parameter>",
    close=("</steptml:invoke>", _CALL_END),
    write_head=f'{_CALL}function{_SEPARATOR}{_INVOKE}{{name}}">\n',
    write_opening=f'{_PARAMETER}{{key}}">',
    write_after="\n",
    write_close=f"</steptml:invoke>{_CALL_END}",
)


class Step3(CallFormat):
    """Values are text; their types come from the tool's schema."""

    name = "step3"
    starts = (_SECTION,)
    markers = (_SECTION, _CALL, _SEPARATOR, _CALL_END, _END)
    sections = (CallSection(trigger=_SECTION, begin=f"{_SECTION}\n", end=f"\n{_END}", between="\n"),)

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(_CALL, _CALL_END, _END, lambda at: TagReader(TAGS, tools, at))

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return tagged_shape(TAGS, name, parameters)


FORMAT = Step3()
