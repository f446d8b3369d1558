"""Mistral and Devstral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]NAME[ARGS]{...}`.

The second form repeats, with or without its marker, and may carry an id: `NAME[CALL_ID]abc123def[ARGS]{...}`.
Nothing marks the end of either.
"""

import json
import re
import secrets
import string
from dataclasses import replace

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallFormat, Read
from backend.output.calls.call_objects import CallObjectReader
from backend.output.calls.json_calls import HeaderCallReader
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.schema import ToolSchemas

_HEADER = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?\[ARGS\]\s*")
_NAME = re.compile(r"[\w.-]{1,256}\s*")
_TAGS = ("[ARGS]", "[CALL_ID]")
_ID_ALPHABET = string.ascii_letters + string.digits


class MistralReader:
    """Reads one list, or calls with headers one after the other until something else follows."""

    def __init__(self) -> None:
        self._list: CallObjectReader | None = None
        self._call: HeaderCallReader | None = None
        self._calls = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        if not self._calls and self._list is None and body.startswith(("[", "{"), skip_blank(body, 0)):
            self._list = CallObjectReader("")
        if self._list is not None:
            return self._list.read(body, final=final)
        if self._call is None:
            begun = self._begin(body, final=final)
            if self._call is None:
                return begun
        read = self._call.read(body, final=final)
        if read is None or not read.end:
            return read
        self._call = None
        self._calls += 1
        return replace(read, open=True)

    def _begin(self, body: str, *, final: bool) -> Read | None:
        """Find the next header."""
        at = skip_blank(body, 0)
        if (header := _HEADER.match(body)) and header.end() < len(body):
            found = header[1], header[2] or "", header.end()
            self._call = HeaderCallReader(lambda *_: found)
        elif final and at == len(body) and self._calls:
            return Read(at)
        elif final or not self._may_begin(body, at):
            if self._calls:
                return Read(0)  # content follows, or the marker again
            raise NotACall("neither a list nor a name")
        return None

    def _may_begin(self, body: str, at: int) -> bool:
        """Whether more text can make a header of it."""
        rest = body[at:]
        if not rest or _HEADER.fullmatch(body):
            return True
        name = _NAME.match(rest)
        tail = rest[name.end() :] if name else rest
        if not name or tail.startswith("[CALL_ID]"):
            return bool(name) and re.fullmatch(r"\[CALL_ID\]\s*\w{0,64}\s*\[?[ARGS]{0,4}\]?\s*", tail) is not None
        return any(tag.startswith(tail) for tag in _TAGS)


class Mistral(CallFormat):
    """Its templates take only ids of nine letters and digits."""

    name = "mistral"
    writable = re.compile(r"[\w.-]{1,256}")
    starts = ("[TOOL_CALLS]",)
    markers = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

    def __init__(self, *, headers: bool = False) -> None:
        self._headers = headers
        listed = CallSection(trigger="[TOOL_CALLS]", begin="[TOOL_CALLS][", end="]", between=", ")
        self.sections = (CallSection(trigger="[TOOL_CALLS]", again="") if headers else listed,)

    @property
    def call_end(self) -> str:
        return ""

    def reader(self, start: str, tools: ToolSchemas) -> MistralReader:
        return MistralReader()

    def fitted(self, template: str) -> "Mistral":
        return Mistral(headers="[ARGS]" in template)

    def frame(self, name: str) -> tuple[str, str]:
        if self._headers:
            return f"[TOOL_CALLS]{name}[ARGS]", ""
        return f'{{"name": {json.dumps(name)}, "arguments": ', "}"

    def new_id(self) -> str:
        return "".join(secrets.choice(_ID_ALPHABET) for _ in range(9))


FORMAT = Mistral()
