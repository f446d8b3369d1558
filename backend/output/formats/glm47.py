"""GLM 4.5 to 4.7: `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`."""

import re

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall, load_json
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import DelimitedReader, balanced, begins
from backend.output.calls.schema import ToolSchemas, one_line_less, typed
from backend.output.formats.json_tools import calls_of

_NAME = re.compile(r"[\w.:/-]*")


class ArgKeyFormat(CallFormat):
    """A name, then keys and values between tags.

    The schema tells which values are strings; other values are JSON or Python literals. A body that is a JSON
    object with `name` and `arguments`, or a name followed by a JSON object, is read too.
    """

    def __init__(self, name: str, prefix: str = "") -> None:
        self.name = name
        self.starts = (f"<{prefix}tool_call>",)
        self.markers = (*self.starts, *(f"<{end}{prefix}arg_{kind}>" for kind in ("key", "value") for end in ("", "/")))
        self.markers += (f"</{prefix}tool_call>",)
        self._key, _, self._value, self._value_end = self.markers[1:5]
        self._pair = re.compile(
            rf"\s*<{prefix}arg_key>\s*(.*?)\s*</{prefix}arg_key>(?:\\n|\s)*"
            rf"<{prefix}arg_value>(.*?)</{prefix}arg_value>",
            re.DOTALL,
        )

    def reader(self, start: str, tools: ToolSchemas) -> DelimitedReader:
        return DelimitedReader(
            self.markers[-1],
            lambda body: self._parse(body, tools),
            opens=self._opens,
            closes=balanced(self._value, self._value_end),
        )

    def _opens(self, body: str) -> bool:
        at = skip_blank(body, 0)
        match = _NAME.match(body, at)
        after = skip_blank(body, match.end() if match else at)
        named = after > at or after == len(body)
        return begins(body, (self._key, self.markers[-1], "{"), after) if named else body.startswith("{", at)

    def _parse(self, body: str, tools: ToolSchemas) -> tuple[Call, ...]:
        at = skip_blank(body, 0)
        match = _NAME.match(body, at)
        name = match[0] if match else ""
        rest = body[at + len(name) :]
        if rest.lstrip().startswith("{"):
            value = load_json(rest)
            return (Call.of(name, value),) if name else calls_of(value)
        arguments: dict[str, object] = {}
        at = 0
        while pair := self._pair.match(rest, at):
            key, text = pair.groups()
            arguments[key] = typed(one_line_less(text), tools.types(name, key), guess=True)
            at = pair.end()
        if skip_blank(rest, at) != len(rest):
            raise NotACall("something between the arguments")
        return (Call.of(name, arguments),)


FORMAT = ArgKeyFormat("glm47")
