"""Functionary 3.1, and Llama 3.1 where it is told so: `<function=NAME>{...}</function>`."""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallFormat
from backend.output.calls.json_calls import HeaderCallReader, begun_header
from backend.output.calls.schema import ToolSchemas

_HEADER, _BEGUN = re.compile(r"(?P<name>[^\s<>=]+)>"), re.compile(r"[^\s<>=]*")


def header(body: str, at: int) -> tuple[str, str, int] | None:
    """The function, and where its arguments begin."""
    match = begun_header(_HEADER, _BEGUN, body, at)
    return (match["name"], "", match.end()) if match else None


class Functionary(CallFormat):
    """Arguments are JSON."""

    name = "functionary"
    writable = re.compile(r"[^\s<>=]{1,256}")
    starts = ("<function=",)
    markers = ("<function=", "</function>")
    sections = (CallSection(trigger="<function=", again=""),)

    def reader(self, start: str, tools: ToolSchemas) -> HeaderCallReader:
        return HeaderCallReader(header, ("</function>",))

    def frame(self, name: str) -> tuple[str, str]:
        return f"<function={name}>", "</function>"


FORMAT = Functionary()
