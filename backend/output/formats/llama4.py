"""Llama 4: `[NAME(key="text", other=2), ...]` where the answer begins, also between `<|python_start|>` markers.

Its own template asks for JSON objects as Llama 3 writes them, which are read too.
"""

import json
from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import Fixed, Shape
from backend.output.calls.bare_calls import BareCallReader
from backend.output.calls.call_format import CallFormat
from backend.output.calls.python_calls import python_shape
from backend.output.calls.schema import ToolSchemas

_START, _END = "<|python_start|>", "<|python_end|>"


class Llama4(CallFormat):
    """Arguments are Python or JSON literals.

    Args:
        as_json: The template asks for JSON objects.
    """

    name = "llama4"
    starts = (_START,)
    markers = (_START, _END)
    ignored = (_END,)

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json

    @property
    def call_start(self) -> str:
        return ""

    @property
    def call_end(self) -> str:
        return ""

    def reader(self, start: str, tools: ToolSchemas) -> BareCallReader:
        return BareCallReader(None, _END)

    def bare_reader(self, tools: ToolSchemas) -> BareCallReader:
        return BareCallReader(frozenset(tools.names))

    def fitted(self, template: str) -> "Llama4":
        return Llama4(as_json='"parameters": dictionary' in template)

    def frame(self, name: str) -> tuple[str, str]:
        return f'{{"name": {json.dumps(name)}, "parameters": ', "}"

    def shape(self, name: str, parameters: Mapping[str, Any]) -> Shape:
        if self._as_json:
            return super().shape(name, parameters)
        return Fixed("["), *python_shape(name, parameters), Fixed("]")


FORMAT = Llama4()
