"""Step 3: sections of calls, each `function`, a separator and `<steptml:invoke name="...">` with its parameters."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.tag_formats import TagBlockFormat
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


class Step3(TagBlockFormat):
    """Values are text; their types come from the tool's schema."""

    name = "step3"
    starts = (_SECTION,)
    markers = (_SECTION, _CALL, _SEPARATOR, _CALL_END, _END)
    sections = (CallSection(trigger=_SECTION, begin=f"{_SECTION}\n", end=f"\n{_END}", between="\n"),)
    tags = TAGS
    block = (_CALL, _CALL_END)


FORMAT = Step3()
