"""What formats have in common whose calls have their arguments between tags."""

from collections.abc import Mapping
from typing import Any

from backend.core.call_shape import Shape
from backend.output.calls.call_format import CallFormat, CallReader
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tag_values import tagged_shape
from backend.output.calls.tags import Tags


class TagFormat(CallFormat):
    """A start marker opens one call.

    Attributes:
        tags: How a call is written and read.
    """

    tags: Tags

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        return TagReader(self.tags, tools)

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        return tagged_shape(self.tags, name, parameters)


class TagBlockFormat(TagFormat):
    """A start marker opens a section of calls, which has an end marker.

    Attributes:
        block: What each of them begins with, up to where `tags` go on, and ends with.
    """

    block: tuple[str, str]

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        return BlockReader(*self.block, self.section_end(start), lambda at: TagReader(self.tags, tools, at))

    def section_end(self, start: str) -> str:
        """What ends a section that `start` opened."""
        return self.call_end
