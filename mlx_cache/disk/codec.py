"""What the tier needs to know of the data: how it becomes bytes, and bytes a prompt cache. No mlx here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlx_cache.blocks import Layout, Piece, State

Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class Segment:
    """The tokens `[first, end)` of one group, as parts of blocks in memory."""

    group: int
    first: int
    end: int
    pieces: list[Piece]


@dataclass(slots=True)
class Part:
    """So many bytes of a body in their order, and who takes them from a buffer that is used again afterwards."""

    nbytes: int
    take: Callable[[Bytes], None]


class Filling(Protocol):
    """A prompt cache that is being read from files. One thread."""

    def parts(self, table: dict[str, Any]) -> list[Part]:
        """Where a body goes. Raises BadFile for a table that does not fit."""
        ...

    def finish(self) -> list[Any]:
        """The prompt cache, evaluated. Raises BadFile if something has not come."""
        ...


class Codec(Protocol):
    """Any thread may call it; `pack` is called by the writer thread, `begin` and what it gives by a reader."""

    def keeps(self, layout: Layout) -> bool:
        """Whether caches of this layout are written to disk."""
        ...

    def pack(self, layout: Layout, segments: Sequence[Segment], state: State | None) -> tuple[dict[str, Any], Bytes]:
        """A body, and the table that describes it in plain JSON types."""
        ...

    def begin(self, template: Sequence[Any], table: dict[str, Any], length: int, room: int) -> Filling:
        """Make caches of the template's classes for `length` tokens and `room` more.

        `table` is the first file's. Raises UnsupportedLayer for a template that is never read, BadFile where the table
        is another layout's.
        """
        ...
