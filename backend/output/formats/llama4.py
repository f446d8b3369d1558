"""Llama 4: `[NAME(key="text", other=2), ...]` where the answer begins, also between `<|python_start|>` markers.

Its own template asks for JSON objects as Llama 3 writes them, which are read too.
"""

from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import Shape
from backend.output.calls.python_calls import python_shape
from backend.output.formats.llama3_json import BareJson


class Llama4(BareJson):
    """Arguments are Python or JSON literals.

    Args:
        as_json: The template asks for JSON objects.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        write, between = (("", ""), "; ") if as_json else (("[", "]"), ", ")
        super().__init__("llama4", "<|python_start|>", write, "parameters", "<|python_end|>", between=between)
        self._as_json = as_json

    def fitted(self, template: str) -> "Llama4":
        return Llama4(as_json='"parameters": dictionary' in template)

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return super().shape(name, parameters) if self._as_json else python_shape(name, parameters)


FORMAT = Llama4()
