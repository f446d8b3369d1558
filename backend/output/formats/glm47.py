"""GLM 4.5 to 4.7: `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.arg_keys import arg_key_tags
from backend.output.calls.call_format import CallFormat, CallReader, Read
from backend.output.calls.call_objects import CallObjectReader
from backend.output.calls.json_calls import HeaderCallReader, wait
from backend.output.calls.literals import skip_blank
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tag_formats import TagFormat
from backend.output.calls.tags import Tags
from backend.output.formats.hy3 import FORMAT as HY3
from backend.output.formats.hy3 import SEPARATOR

_NAME = re.compile(r"[\w.:/-]{0,256}")


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


class ArgKeyFormat(TagFormat):
    """The schema tells which values are strings; other values are JSON or Python literals."""

    def __init__(self, name: str, prefix: str = "", *, held: bool = False) -> None:
        self.name, self._prefix = name, prefix
        self.starts = (f"<{prefix}tool_call>",)
        self.sections = (CallSection(trigger=self.starts[0], again="\n"),)
        self.markers = (*self.starts, *(f"<{end}{prefix}arg_{kind}>" for kind in ("key", "value") for end in ("", "/")))
        self.markers += (f"</{prefix}tool_call>",)
        self.tags = arg_key_tags(prefix, held=held)

    def reader(self, start: str, tools: ToolSchemas) -> ArgKeyReader:
        return ArgKeyReader(self.tags, tools)

    def held(self) -> "ArgKeyFormat":
        return ArgKeyFormat(self.name, self._prefix, held=True)


class Glm47(ArgKeyFormat):
    """GLM's own: where the template has a separator behind the name, and sections, it is another format."""

    def fitted(self, template: str) -> CallFormat:
        # mlx-lm takes any template with `<arg_key>` for GLM's.
        return HY3 if SEPARATOR in template else self


FORMAT = Glm47("glm47")
