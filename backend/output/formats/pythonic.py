"""LFM2 and other Python-like calls: `<|tool_call_start|>[NAME(key="text", other=2), ...]<|tool_call_end|>`."""

from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import CallSection, Shape
from backend.output.calls.bare_calls import BareCallReader
from backend.output.calls.call_format import CallFormat
from backend.output.calls.python_calls import python_shape
from backend.output.calls.schema import ToolSchemas

_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"


class Pythonic(CallFormat):
    """Arguments are Python or JSON literals. JSON call objects are read too."""

    name = "pythonic"
    starts = (_START,)
    markers = (_START, _END)
    sections = (CallSection(trigger=_START, begin=f"{_START}[", end=f"]{_END}", between=", "),)

    def reader(self, start: str, tools: ToolSchemas) -> BareCallReader:
        return BareCallReader(None, _END)

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return python_shape(name, parameters)


FORMAT = Pythonic()
