"""Apertus: `<|tools_prefix|>[{"NAME": {...}}, ...]<|tools_suffix|>`."""

import json
import re

from backend.core.call_shape import CallSection
from backend.output.calls.argument_lists import CallListReader
from backend.output.calls.call_format import CallFormat
from backend.output.calls.json_calls import HeaderCallReader, begun_header
from backend.output.calls.json_text import load_json
from backend.output.calls.schema import ToolSchemas
from backend.output.choice import APERTUS_THINK

_START, _END = "<|tools_prefix|>", "<|tools_suffix|>"
_HEADER = re.compile(r'\s*\{\s*(?P<name>"(?:[^"\\]|\\.)*")\s*:')
_BEGUN = re.compile(r'\s*(?:\{\s*(?:"(?:[^"\\]|\\.)*(?:\\|"\s*)?)?)?')


def header(body: str, at: int) -> tuple[str, str, int] | None:
    """The function, and where its arguments begin."""
    match = begun_header(_HEADER, _BEGUN, body, at)
    return (load_json(match["name"]), "", match.end()) if match else None


class Apertus(CallFormat):
    """A call is a JSON object with one member."""

    name = "apertus"
    starts = (_START,)
    markers = (_START, _END)
    think = APERTUS_THINK
    sections = (CallSection(trigger=_START, begin=f"{_START}[", end=f"]{_END}", between=", "),)

    def reader(self, start: str, tools: ToolSchemas) -> CallListReader:
        return CallListReader(lambda at: HeaderCallReader(header, ("}",), at=at), _END, bracketed=True)

    def frame(self, name: str) -> tuple[str, str]:
        return f"{{{json.dumps(name)}: ", "}"


FORMAT = Apertus()
