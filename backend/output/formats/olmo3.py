"""Olmo 3: `<function_calls>` around Python calls, one a line."""

from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import CallSection, Shape
from backend.output.calls.argument_lists import ArgumentListReader, CallListReader
from backend.output.calls.call_format import CallFormat
from backend.output.calls.python_calls import SYNTAX, python_shape
from backend.output.calls.schema import ToolSchemas

_START, _END = "<function_calls>", "</function_calls>"


class Olmo3(CallFormat):
    """Arguments are Python or JSON literals."""

    name = "olmo3"
    starts = (_START,)
    markers = (_START, _END)
    sections = (CallSection(trigger=_START, begin=f"{_START}\n", end=f"\n{_END}", between="\n"),)

    def reader(self, start: str, tools: ToolSchemas) -> CallListReader:
        return CallListReader(lambda at: ArgumentListReader(SYNTAX, at), _END, bracketed=False)

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return python_shape(name, parameters)


FORMAT = Olmo3()
