"""The difference between a tree and an insert: compared before copying and again before committing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_cache.blocks import Block, Layout
from mlx_cache.tree import Match, Node, Tokens, Tree

Range = tuple[int, int]


@dataclass(slots=True)
class Missing:
    """What an insert of `length` tokens has to add to a tree as it stands. Equal ones commit alike."""

    node: Node
    at: int
    length: int
    wants_state: bool
    new: list[list[Range]]
    # For the nodes of the path whose windows must reach further back: (node, group, ranges).
    backfills: list[tuple[Node, int, list[Range]]]
    cuts: list[tuple[Block, int]]
    # Whether the edge of `node` has to be cut at `at`.
    is_split: bool

    @property
    def n_new(self) -> int:
        """Buffers to be made, a snapshot's own few aside."""
        return sum(map(len, self.ranges()))

    def ranges(self) -> list[list[Range]]:
        """Everything to copy by group: the new edge's blocks, then the backfills in their order."""
        out = [list(ranges) for ranges in self.new]
        for _, group, ranges in self.backfills:
            out[group].extend(ranges)
        return out

    def nbytes(self, layout: Layout) -> int:
        """Bytes of everything to copy, the state aside."""
        return sum(
            (high - low) * group.bytes_per_token
            for group, ranges in zip(layout.groups, self.ranges(), strict=True)
            for low, high in ranges
        )


def find_missing(tree: Tree, tokens: Tokens, *, snapshot: bool, available: list[int], apart: bool = False) -> Missing:
    """Compare a sequence with the tree. `available` is the first position of each group that can still be copied.

    With `apart` an edge that goes on behind the sequence is cut at its end.
    """
    layout, length = tree.layout, len(tokens)
    match = tree.match(tokens)
    node, at = match.last or tree.root, match.length
    begins = [0 if group.is_full else max(0, length - group.reach) for group in layout.groups]
    whole = snapshot and all(
        have <= b for have, b, g in zip(available, begins, layout.groups, strict=True) if not g.is_full
    )
    point = whole and not layout.cuttable and tree.restorable(match, length)[1] < length
    new: list[list[Range]] = []
    backfills: list[tuple[Node, int, list[Range]]] = []
    for g, (group, begin) in enumerate(zip(layout.groups, begins, strict=True)):
        wanted = group.is_full or point
        new.append(_chop(max(at, begin), length, tree.block_tokens) if wanted else [])
        if point and not group.is_full:
            backfills.extend(_backfills(match, g, at, begin))
    is_split = at < node.end and (length > at or point or apart)
    cuts = [(b, at) for blocks in node.spans for b in blocks if b.start < at < b.end] if is_split else []
    wants_state = point and layout.has_state and (is_split or length > at or node.state is None)
    return Missing(node, at, length, wants_state, new, backfills, cuts, is_split)


def _backfills(match: Match, group: int, at: int, begin: int) -> Iterator[tuple[Node, int, list[Range]]]:
    for node in match.nodes:
        low, high = max(node.start, begin), min(node.cover(group), at)
        if low < high:
            yield node, group, _chop(low, high, node.tree.block_tokens)


def _chop(start: int, end: int, step: int) -> list[Range]:
    return [(low, min(low + step, end)) for low in range(start, end, step)]
