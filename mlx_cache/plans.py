"""The plans that pass between the index and the cache: for inserts, lookups, pins."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from mlx_cache.blocks import Block, Layout, Piece, Restorable
from mlx_cache.missing import Missing
from mlx_cache.stats import Reason
from mlx_cache.tree import Hold, Tokens, Tree


@dataclass(slots=True)
class InsertPlan:
    """What an insert has to add, with the room reserved for it and a hold on the path it extends."""

    tree: Tree
    tokens: Tokens
    missing: Missing
    version: int
    reserved: int
    hold: Hold
    snapshot: bool
    apart: bool
    available: list[int]


@dataclass(slots=True)
class Found:
    """A lookup: what to restore, why not more, and a hold that keeps it meanwhile."""

    restorable: Restorable
    reason: Reason
    agreed: int
    layout: Layout | None = None
    hold: Hold | None = None
    spans: list[list[list[Block]]] = field(default_factory=list[list[list[Block]]])

    def with_pieces(self) -> Restorable:
        """What to restore, with the parts of the blocks that are needed."""
        assert self.layout is not None
        out, length = self.restorable, self.restorable.length
        begins = [0 if g.is_full else max(0, length - g.reach) for g in self.layout.groups]
        out.pieces = [
            [
                Piece(block, max(block.start, begin), min(block.end, length))
                for edge in self.spans
                for block in edge[g]
                if block.start < length and block.end > begin
            ]
            for g, begin in enumerate(begins)
        ]
        return out


@dataclass(slots=True)
class Pin:
    """A named prefix. `holds` keep what of it is stored now; more is added as inserts bring it."""

    key: Hashable
    tokens: Tokens
    length: int = 0
    holds: list[Hold] = field(default_factory=list[Hold])
