"""MiniCPM 5: `<function name="NAME"><param name="KEY">VALUE</param></function>`, CDATA around difficult values."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.tag_formats import TagFormat
from backend.output.calls.tags import Tags, begun

# Quotes may be single or missing; a name without them begins and ends in no blank.
_WORDS = r"(?=[^\s<>\"'])(?![^<>\"'\n]{{257}})[^\s<>\"']+(?: +[^\s<>\"']+)*"
_NAME = r"\s*(?P<quote>[\"'])?(?P<{}>(?(quote)[^<>\"'\n]{{1,256}}|" + _WORDS + r"))(?(quote)(?P=quote))\s*>"
_NAME_BEGUN = r"\s*[\"']?[^\"'<>\n]{0,256}[\"']?\s*>?"
TAGS = Tags(
    head=re.compile(_NAME.format("name")),
    head_begun=re.compile(_NAME_BEGUN),
    opening=re.compile(r"<param\s+name\s*=" + _NAME.format("key")),
    opening_begun=re.compile(begun("<param", r"(?:\s+" + begun("name", r"\s*" + begun("=", _NAME_BEGUN)) + ")?")),
    value_end="</param>",
    close=("</function>",),
    trim=str.strip,
    quoted=("<![CDATA[", "]]>"),
    write_head='<function name="{name}">',
    write_opening='<param name="{key}">',
    write_close="</function>",
)


class MiniCpm5(TagFormat):
    """Calls have no wrapper: several stand one after the other. Types come from the tool's schema."""

    name = "minicpm5"
    starts = ("<function name=",)
    markers = ("<function", "<param", "</param>", "</function>")
    sections = (CallSection(trigger="<function name=", again="\n"),)
    tags = TAGS


FORMAT = MiniCpm5()
