"""What the cache in memory offers to the disk: a path's tokens, and parts of blocks that stay alive as long as it does.

Made with the cache's lock held, so nothing is copied here. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_cache.blocks import Block, Layout, Piece, State
from mlx_cache.disk.codec import Segment
from mlx_cache.tree import Tokens


@dataclass(slots=True)
class Offer:
    """The sequence `parts` makes up to `end`. What ends in `(start, end]` may be written.

    With `with_end` that includes what restores exactly `end`. `spans` has the path's edges, each with a list of blocks
    for each group. `used` says that a hit had it, `age` how many seconds ago.
    """

    parts: list[Tokens]
    layout: Layout
    spans: list[list[list[Block]]]
    state: State | None
    start: int
    end: int
    with_end: bool
    used: bool = False
    age: float = 0.0

    def tokens(self) -> Tokens:
        """The sequence."""
        whole = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
        return whole[: self.end]

    def restorable(self) -> bool:
        """Whether all is here that restores exactly `end`."""
        if self.layout.has_state and self.state is None:
            return False
        return all(
            group.is_full or self._covers(g, max(0, self.end - group.reach))
            for g, group in enumerate(self.layout.groups)
        )

    def _covers(self, group: int, begin: int) -> bool:
        pieces = self._pieces(group, begin, self.end)
        return sum(piece.end - piece.start for piece in pieces) == self.end - begin

    def block(self, start: int, end: int) -> list[Segment] | None:
        """The entries of `[start, end)` of every layer that needs all tokens; None where some are not here."""
        return self._segments({g: (start, end) for g, group in enumerate(self.layout.groups) if group.is_full})

    def tail(self, start: int) -> list[Segment] | None:
        """What restores `end` beside the blocks up to `start` and the state."""
        wanted = {
            g: (start if group.is_full else max(0, self.end - group.reach), self.end)
            for g, group in enumerate(self.layout.groups)
        }
        return self._segments(wanted)

    def _segments(self, wanted: dict[int, tuple[int, int]]) -> list[Segment] | None:
        out: list[Segment] = []
        for group, (first, end) in wanted.items():
            if first == end:
                continue
            pieces = self._pieces(group, first, end)
            if sum(piece.end - piece.start for piece in pieces) != end - first:
                return None
            out.append(Segment(group, first, end, pieces))
        return out

    def _pieces(self, group: int, first: int, end: int) -> list[Piece]:
        return [
            Piece(block, max(block.start, first), min(block.end, end))
            for edge in self.spans
            for block in edge[group]
            if block.start < end and block.end > first
        ]
