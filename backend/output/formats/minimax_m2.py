"""MiniMax M2: `<minimax:tool_call><invoke name="..."><parameter name="...">VALUE</parameter></invoke>...`."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.tag_formats import TagBlockFormat
from backend.output.calls.tags import Tags, begun

_SECTION, _END = "<minimax:tool_call>", "</minimax:tool_call>"
# Quotes may be single or missing; a name without them begins and ends in no blank.
_WORDS = r"[^\s<>\"']+(?: +[^\s<>\"']+)*"
_NAME = rf"\s*(?P<quote>[\"'])?(?P<{{}}>(?(quote)[^<>\"']+|{_WORDS}))(?(quote)(?P=quote))\s*>"
_NAME_BEGUN = r"\s*[\"']?[^<>\"']*[\"']?\s*>?"
TAGS = Tags(
    head=re.compile(_NAME.format("name")),
    head_begun=re.compile(_NAME_BEGUN),
    opening=re.compile("<parameter name=" + _NAME.format("key")),
    opening_begun=re.compile(begun("<parameter name=", _NAME_BEGUN)),
    value_end="</parameter>",
    close=("</invoke>",),
    write_head='<invoke name="{name}">\n',
    write_opening='<parameter name="{key}">',
    write_after="\n",
    write_close="</invoke>",
)


class MinimaxM2(TagBlockFormat):
    """Values are text; their types come from the tool's schema."""

    name = "minimax_m2"
    starts = (_SECTION,)
    markers = (_SECTION, _END)
    sections = (CallSection(trigger=_SECTION, begin=f"{_SECTION}\n", end=f"\n{_END}", between="\n"),)
    tags = TAGS
    block = ("<invoke name=", "</invoke>")


FORMAT = MinimaxM2()
