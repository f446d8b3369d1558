"""LFM2 and other Python-like calls: `<|tool_call_start|>[NAME(key="text", other=2), ...]<|tool_call_end|>`."""

from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import CallSection, Shape
from backend.output.calls.argument_lists import ArgumentListReader, CallListReader
from backend.output.calls.call_format import CallFormat, CallReader, Read
from backend.output.calls.call_objects import CallObjectReader
from backend.output.calls.json_calls import wait
from backend.output.calls.literals import skip_blank
from backend.output.calls.python_calls import SYNTAX, python_shape
from backend.output.calls.schema import ToolSchemas

_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"


class PythonListReader:
    """A list of Python calls; one of JSON call objects is read too."""

    def __init__(self) -> None:
        self._chosen: CallReader | None = None

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._chosen is None:
            at = skip_blank(body, 0)
            at = skip_blank(body, at + 1) if body.startswith("[", at) else at
            if at == len(body):
                return wait(final=final)
            is_json = body.startswith("{", at)
            calls = CallListReader(lambda at: ArgumentListReader(SYNTAX, at), _END, bracketed=True)
            self._chosen = CallObjectReader(_END) if is_json else calls
        return self._chosen.read(body, final=final)


class Pythonic(CallFormat):
    """Arguments are Python or JSON literals."""

    name = "pythonic"
    starts = (_START,)
    markers = (_START, _END)
    sections = (CallSection(trigger=_START, begin=f"{_START}[", end=f"]{_END}", between=", "),)

    def reader(self, start: str, tools: ToolSchemas) -> PythonListReader:
        return PythonListReader()

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return python_shape(name, parameters)


FORMAT = Pythonic()
