"""Muse Spark: messages with headers, and calls as `<atem:invoke name="..."><atem:parameter name="...">`.

One answer holds several messages; the prompt ends in the first one's `<|start|>assistant `:

    to=self<|message|>reasoning<|eom|>
    <|start|>assistant to=NAME<|message|><atem:function_calls>...</atem:function_calls><|eom|>
    <|start|>assistant to=user<|message|>answer<|eot|>
"""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallFormat, CallReader, Read
from backend.output.calls.readers import HeaderReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_formats import TagBlockFormat
from backend.output.calls.tags import Tags, begun

_SECTION, _END = "<atem:function_calls>", "</atem:function_calls>"
_NAME = r"[^<>]*?\bname=\"(?P<{}>[^\"<>]+)\"[^<>]*>"
_NAME_BEGUN = r"[^<>]*>?"
_RECIPIENT = re.compile(r"(?:to=(?P<to>[\w.-]*))?\s*")
TAGS = Tags(
    head=re.compile(_NAME.format("name")),
    head_begun=re.compile(_NAME_BEGUN),
    opening=re.compile(r"<atem:parameter\b" + _NAME.format("key")),
    opening_begun=re.compile(begun("<atem:parameter", _NAME_BEGUN)),
    value_end="</atem:parameter>",
    close=("</atem:invoke>",),
    trim=str.strip,
    guess=True,
    write_head=f'to={{name}}<|message|>{_SECTION}\n<atem:invoke name="{{name}}">\n',
    write_opening='<atem:parameter name="{key}">',
    write_after="\n",
    write_close=f"</atem:invoke>\n{_END}",
    writable=re.compile(r"[\w.-]{1,256}"),
)


def route(header: str) -> Read | None:
    """Where the message behind a header goes: to itself is reasoning, to anyone else is content."""
    rest = header.removeprefix("assistant").removeprefix(" ")
    match = _RECIPIENT.fullmatch(rest)
    if match is None:
        return Read(0) if "assistant".startswith(header) or "to=".startswith(rest) else None
    return Read(0, section="reasoning" if match["to"] == "self" else "content")


class MuseSpark(TagBlockFormat):
    """Values are JSON, or else text."""

    name = "muse_spark"
    markers = ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>", _SECTION, _END)
    think = ("to=self<|message|>", "<|eom|>")
    ignored = ("<|eom|>", "<|eot|>")
    lead = "<|start|>assistant "
    sections = (CallSection(trigger=_SECTION, again="<|eom|><|start|>assistant "),)
    tags = TAGS
    block = ("<atem:invoke", "</atem:invoke>")

    def __init__(self, *, calls: bool = True) -> None:
        self.starts = ("<|start|>", _SECTION) if calls else ("<|start|>",)

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        if start == "<|start|>":
            return HeaderReader("<|message|>", route)
        return super().reader(start, tools)

    def first_reader(self, tools: ToolSchemas) -> CallReader:
        return HeaderReader("<|message|>", route, marked=False)

    def without_calls(self) -> CallFormat:
        return MuseSpark(calls=False)


FORMAT = MuseSpark()
