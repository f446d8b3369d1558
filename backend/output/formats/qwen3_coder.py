"""Qwen 3 Coder, Qwen 3.5: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`."""

import re
from dataclasses import replace

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallReader, Read
from backend.output.calls.literals import skip_blank
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tag_formats import TagFormat
from backend.output.calls.tags import Tags, begun

_REST = r"\s*[^\s<>]*\s*>?"
_WORDS = r"[^\s<>]+(?: +[^\s<>]+)*"


def function_tags(section: tuple[str, str], *, opened: bool = False, held: bool = False) -> Tags:
    """`<function=NAME>` and `<parameter=KEY>` in a section of its own.

    Args:
        opened: `<function=` has been read.
        held: No end tag is left out.
    """
    start = "" if opened else "<function="
    return Tags(
        head=re.compile(start + r"\s*(?P<name>[^\s<>]+)\s*>"),
        head_begun=re.compile(begun(start, _REST)),
        opening=re.compile(rf"<parameter=\s*(?P<key>{_WORDS})\s*>"),
        opening_begun=re.compile(begun("<parameter=", rf"\s*(?:{_WORDS})?\s*>?")),
        value_end="</parameter>",
        close=("</function>",),
        starts=() if held else (section[0], "<function="),
        section_end=section[1],
        write_head="<function={name}>\n",
        write_opening="<parameter={key}>\n",
        write_tail="\n",
        write_after="\n",
        write_close="</function>",
    )


class SectionReader:
    """One function, then the section's end marker, which may be missing."""

    def __init__(self, tags: Tags, tools: ToolSchemas, end: str) -> None:
        self._call = TagReader(tags, tools)
        self._end = end
        self._called = False

    def read(self, body: str, *, final: bool) -> Read | None:
        if not self._called:
            read = self._call.read(body, final=final)
            if read is None or not read.end:
                return read
            self._called = True
            return replace(read, open=True)
        at = skip_blank(body, 0)
        if body.startswith(self._end, at):
            return Read(at + len(self._end))
        if self._end.startswith(body[at:]):
            return Read(len(body)) if final else None
        return Read(0)


class FunctionTags(TagFormat):
    """Values are text; their types come from the tool's schema. Line breaks around a value are not part of it.

    Models leave the section's start marker out now and then, so the function's tag opens a call too.
    """

    _FUNCTION = "<function="

    def __init__(self, name: str, section: tuple[str, str], *, held: bool = False) -> None:
        self.name, self._section = name, section
        self.starts = (section[0], self._FUNCTION)
        self.markers = (section[0], self._FUNCTION, section[1])
        self.sections = (
            CallSection(trigger=section[0], begin=f"{section[0]}\n", end=f"\n{section[1]}", again="\n"),
            CallSection(trigger=self._FUNCTION),
        )
        self.tags = function_tags(section, held=held)
        self._opened = function_tags(section, opened=True, held=held)

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        return SectionReader(self._opened if start == self._FUNCTION else self.tags, tools, self.call_end)

    def held(self) -> "FunctionTags":
        return FunctionTags(self.name, self._section, held=True)


FORMAT = FunctionTags("qwen3_coder", ("<tool_call>", "</tool_call>"))
