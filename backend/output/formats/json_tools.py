"""Hermes, Qwen 2.5 and Qwen 3: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

import json

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallFormat
from backend.output.calls.call_objects import OPENAI_KEYS, CallKeys, CallObjectReader
from backend.output.calls.schema import ToolSchemas


class JsonCalls(CallFormat):
    """JSON call objects, or a list of them, behind a marker.

    Args:
        starts: Markers that open the calls; the first is the one that is written.
        end: The marker that ends them; empty if nothing does.
        write: What stands before the first call object and behind the last, markers included.
        between: Between two call objects of a section; None where each has its own markers, and `again` between them.
        first: The call object's members before its name.
        arguments: What the arguments are called.
        others: Special texts that carry nothing.
        think: Markers around reasoning, where they belong to the format.
    """

    def __init__(
        self,
        name: str,
        starts: tuple[str, ...],
        end: str,
        write: tuple[str, str],
        *,
        between: str | None = None,
        again: str | None = None,
        keys: CallKeys = OPENAI_KEYS,
        first: str = "",
        arguments: str = "arguments",
        others: tuple[str, ...] = (),
        think: tuple[str, str] | None = None,
    ) -> None:
        self.name, self.starts, self.ignored, self.think = name, starts, others, think
        self.markers = (*starts, *others, *([end] if end else []))
        self.sections = tuple(
            CallSection(
                # A word may be only spoken of.
                trigger=write[0].replace(starts[0], start) if start.isalpha() else start,
                begin=write[0].replace(starts[0], start),
                end=write[1],
                between=between,
                again=again,
            )
            for start in starts
        )
        self._end, self._keys = end, keys
        self._first, self._arguments = first, arguments

    @property
    def call_end(self) -> str:
        return self._end

    def reader(self, start: str, tools: ToolSchemas) -> CallObjectReader:
        return CallObjectReader(self._end, self._keys)

    def frame(self, name: str) -> tuple[str, str]:
        return f'{{{self._first}"{self._keys.name}": {json.dumps(name)}, "{self._arguments}": ', "}"


FORMAT = JsonCalls("json_tools", ("<tool_call>",), "</tool_call>", ("<tool_call>\n", "\n</tool_call>"), again="\n")
