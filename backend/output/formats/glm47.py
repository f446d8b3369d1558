"""GLM 4.5 to 4.7: `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`."""

import re
from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import Shape
from backend.output.calls.call_format import CallFormat, CallReader, Read
from backend.output.calls.call_objects import CallObjectReader
from backend.output.calls.json_calls import HeaderCallReader, wait
from backend.output.calls.literals import skip_blank
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tag_values import tagged_shape
from backend.output.calls.tags import Tags, begun

_NAME = re.compile(r"[\w.:/-]{0,256}")


def arg_key_tags(prefix: str, *, held: bool = False) -> Tags:
    """`<arg_key>` and `<arg_value>`, with a prefix; where they are `held`, no end tag is left out."""
    key, key_end = f"<{prefix}arg_key>", f"</{prefix}arg_key>"
    value, end = f"<{prefix}arg_value>", f"</{prefix}tool_call>"
    name_begun = rf"(?:[\w.:/-]{{1,256}}\s*(?:{begun(key)}|{begun(end)}))?"
    return Tags(
        head=re.compile(rf"(?P<name>[\w.:/-]{{1,256}})(?=\s*(?:{key}|{end}))"),
        head_begun=re.compile(name_begun),
        opening=re.compile(rf"{key}\s*(?P<key>[^<>]+?)\s*{key_end}(?:\\n|\s)*{value}"),
        opening_begun=re.compile(begun(key, "[^<>]*" + begun(key_end, r"(?:\\n|\s)*\\?" + begun(value)))),
        value_end=f"</{prefix}arg_value>",
        close=(end,),
        starts=() if held else (f"<{prefix}tool_call>",),
        guess=True,
        write_head=f"<{prefix}tool_call>{{name}}\n",
        write_opening=f"{key}{{key}}{key_end}\n{value}",
        write_after="\n",
        write_close=end,
        writable=re.compile(r"[\w.:/-]{1,256}"),
    )


class ArgKeyReader:
    """A call in tags; or a JSON object with `name` and `arguments`, or a name and a JSON object."""

    def __init__(self, tags: Tags, tools: ToolSchemas) -> None:
        self._tags, self._tools = tags, tools
        self._chosen: CallReader | None = None

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._chosen is None:
            begin = skip_blank(body, 0)
            name = _NAME.match(body, begin)
            after = skip_blank(body, name.end() if name else begin)
            if after == len(body):
                return wait(final=final)
            self._chosen = self._choose(name[0] if name else "", after, body[after])
        return self._chosen.read(body, final=final)

    def _choose(self, name: str, after: int, char: str) -> CallReader:
        if char != "{":
            return TagReader(self._tags, self._tools)
        if not name:
            return CallObjectReader(self._tags.close[0])
        return HeaderCallReader(lambda _, at: (name, "", at), self._tags.close, at=after)


class ArgKeyFormat(CallFormat):
    """The schema tells which values are strings; other values are JSON or Python literals."""

    def __init__(self, name: str, prefix: str = "", *, held: bool = False) -> None:
        self.name, self._prefix = name, prefix
        self.starts = (f"<{prefix}tool_call>",)
        self.markers = (*self.starts, *(f"<{end}{prefix}arg_{kind}>" for kind in ("key", "value") for end in ("", "/")))
        self.markers += (f"</{prefix}tool_call>",)
        self._tags = arg_key_tags(prefix, held=held)

    def reader(self, start: str, tools: ToolSchemas) -> ArgKeyReader:
        return ArgKeyReader(self._tags, tools)

    def held(self) -> "ArgKeyFormat":
        return ArgKeyFormat(self.name, self._prefix, held=True)

    def shape(self, name: str, parameters: Mapping[str, Any]) -> Shape:
        return tagged_shape(self._tags, name, parameters)


FORMAT = ArgKeyFormat("glm47")
