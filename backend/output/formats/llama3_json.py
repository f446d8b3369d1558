"""Llama 3: `{"name": ..., "parameters": {...}}` where the answer begins, also behind `<|python_tag|>`.

Several stand one after the other, a semicolon or a line break between them.
"""

import json

from backend.core.call_shape import CallSection
from backend.output.calls.bare_calls import BareCallReader
from backend.output.calls.call_format import CallFormat
from backend.output.calls.schema import ToolSchemas


class BareJson(CallFormat):
    """JSON call objects that nothing marks.

    Args:
        marker: What may stand before them; empty if nothing does.
        end: What may follow them then.
        write: What stands before the first and behind the last.
        arguments: What the arguments are called.
        between: Between two objects.
    """

    def __init__(
        self, name: str, marker: str, write: tuple[str, str], arguments: str, end: str = "", *, between: str = "; "
    ) -> None:
        self.name = name
        self.starts = (marker,) if marker else ()
        self.ignored = (end,) if end else ()
        self.markers = (*self.starts, *self.ignored)
        self._end = end
        self.sections = (CallSection(begin=write[0], end=write[1], between=between),)
        self._arguments = arguments

    @property
    def call_end(self) -> str:
        return ""

    def reader(self, start: str, tools: ToolSchemas) -> BareCallReader:
        return BareCallReader(None, self._end)

    def bare_reader(self, tools: ToolSchemas) -> BareCallReader:
        return BareCallReader(frozenset(tools.names))

    def frame(self, name: str) -> tuple[str, str]:
        return f'{{"name": {json.dumps(name)}, "{self._arguments}": ', "}"


FORMAT = BareJson("llama3_json", "<|python_tag|>", ("", ""), "parameters")
