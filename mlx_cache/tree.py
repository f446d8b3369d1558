"""A compressed radix tree over token ids. An edge and the node it ends in are one object. Pure Python and numpy."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_cache.blocks import BLOCK_TOKENS, Block, Layout, State
from mlx_cache.policy import Usage

Tokens = NDArray[np.int32]

_COMPARE_FIRST = 64
_MAX_EVICTED = 64


class Node:
    """The edge `[start, end)` and the point where it ends.

    Invariants: `children` are keyed by the first token of their edges; the blocks of a group are contiguous and end
    at `end`; those of a full group begin at `start`; only a leaf is ever removed or shortened.
    """

    __slots__ = (
        "cache_type",
        "children",
        "end",
        "evicted",
        "head_end",
        "holds",
        "lost_state",
        "parent",
        "spans",
        "stamp",
        "start",
        "state",
        "state_stamp",
        "state_usage",
        "tail_usage",
        "tokens",
        "tree",
        "usage",
    )

    def __init__(self, tree: Tree, parent: Node | None, tokens: Tokens, usage: Usage) -> None:
        self.tree = tree
        self.parent = parent
        self.tokens = tokens
        self.start = parent.end if parent is not None else 0
        self.end = self.start + len(tokens)
        self.children: dict[int, Node] = {}
        self.spans: list[list[Block]] = [[] for _ in tree.layout.groups]
        self.state: State | None = None
        self.usage = usage
        # Where the last fetch ended inside this edge, what lies behind keeps its older usage.
        self.tail_usage: Usage | None = None
        self.head_end = self.end
        self.state_usage: Usage | None = None
        self.holds: dict[Any, int] = {}
        self.evicted: dict[int, None] = {}
        self.lost_state = False
        self.stamp = 0
        self.state_stamp = 0
        self.cache_type = "assistant"

    @property
    def is_root(self) -> bool:
        """The root holds no tokens and is never removed."""
        return self.parent is None

    @property
    def is_leaf(self) -> bool:
        """Whether nothing continues here. An empty tree's root is no leaf."""
        return not self.children and self.parent is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers this node owns."""
        total = sum(block.nbytes for blocks in self.spans for block in blocks)
        return total + (self.state.nbytes if self.state is not None else 0)

    @property
    def n_buffers(self) -> int:
        """Live buffers this node owns."""
        return sum(map(len, self.spans)) + (self.state.n_buffers if self.state is not None else 0)

    @property
    def has_snapshot(self) -> bool:
        """Whether something here serves only to restore layers that cannot be cut anywhere."""
        return self.state is not None or any(self.spans[g] for g in self.tree.windows)

    @property
    def snapshot_nbytes(self) -> int:
        """Bytes of the state and of the windows' entries."""
        windows = sum(block.nbytes for g in self.tree.windows for block in self.spans[g])
        return windows + (self.state.nbytes if self.state is not None else 0)

    def cover(self, group: int) -> int:
        """The first position of this edge from which the group's entries are here, up to the end."""
        blocks = self.spans[group]
        return blocks[0].start if blocks else self.end

    def held_to(self) -> int:
        """The position up to which pins and running copies need this edge; `start` without any."""
        return max(self.holds.values(), default=self.start)

    def path(self) -> list[Node]:
        """The nodes from the root's child to this one."""
        nodes: list[Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        nodes.reverse()
        return nodes

    def remember_lost(self, first_token: int) -> None:
        """Keep the first token of something evicted below, so that a later miss can say why."""
        if len(self.evicted) >= _MAX_EVICTED:
            self.evicted.pop(next(iter(self.evicted)))
        self.evicted[first_token] = None


class Hold:
    """Keeps a path of the tree from eviction, up to a position. Its `node` follows when an edge is split."""

    __slots__ = ("end", "name", "node")

    def __init__(self, node: Node, end: int, name: str | None = None) -> None:
        self.node, self.end, self.name = node, end, name
        node.holds[self] = end

    def release(self) -> None:
        """Let go; harmless on a node that has been cleared away meanwhile."""
        self.node.holds.pop(self, None)


@dataclass(slots=True)
class Match:
    """How far a token sequence runs along the tree.

    `nodes` are the nodes entered, from the top; `length` tokens agree, so the last node may be entered only partly.
    """

    nodes: list[Node]
    length: int

    @property
    def last(self) -> Node | None:
        """The deepest node entered."""
        return self.nodes[-1] if self.nodes else None


class Tree:
    """The index of one namespace."""

    def __init__(self, layout: Layout, block_tokens: int = BLOCK_TOKENS, key: Hashable = None) -> None:
        self.layout = layout
        self.key = key
        self.block_tokens = block_tokens
        self.windows = tuple(g for g, group in enumerate(layout.groups) if not group.is_full)
        self.alive = True
        self.version = 0
        self.n_leaves = 0
        self.n_nodes = 0
        self.n_tokens = 0
        self.root = Node(self, None, np.empty(0, np.int32), Usage(0.0, 0.0, 0.0))

    def match(self, tokens: Tokens) -> Match:
        """Walk as far as the tokens agree."""
        node, position, end, nodes = self.root, 0, len(tokens), list[Node]()
        while position < end:
            child = node.children.get(int(tokens[position]))
            if child is None:
                break
            nodes.append(child)
            agreed = common_prefix(child.tokens, tokens[position : position + len(child.tokens)])
            position += agreed
            if agreed < len(child.tokens):
                break
            node = child
        return Match(nodes, position)

    def beyond(self, match: Match, most: int) -> tuple[float, list[Tokens]]:
        """When what lies behind a match was last used, and its tokens up to some `most`; none where it goes on nowhere.

        Where it forks, the way that was used last. The arrays belong to the tree and are never changed.
        """
        node, parts, length, used = match.last or self.root, list[Tokens](), 0, 0.0
        if match.length < node.end:
            parts.append(node.tokens[match.length - node.start :])
            length, used = len(parts[0]), node.usage.last
        while length < most and node.children:
            node = max(node.children.values(), key=lambda child: child.usage.last)
            used = used if parts else node.usage.last
            parts.append(node.tokens)
            length += len(node.tokens)
        return used, parts

    def restorable(self, match: Match, limit: int) -> tuple[Node | None, int]:
        """The deepest point at or before `limit` where every layer can be restored, and the node it lies in.

        A point is restorable when each group's entries reach back far enough without a gap and, where the layout
        has state, a snapshot was taken exactly there.
        """
        limit = min(limit, match.length)
        if self.layout.cuttable:
            node = next((n for n in reversed(match.nodes) if n.start < limit), None)
            return node, limit if node is not None else 0
        best: tuple[Node | None, int] = (None, 0)
        reaches = [group.reach for group in self.layout.groups]
        covered = [0] * len(reaches)
        for node in match.nodes:
            point = min(limit, node.end)
            if point <= node.start:
                break
            has_state = not self.layout.has_state or (point == node.end and node.state is not None)
            begins = [_covered_from(node, g, before, point) for g, before in enumerate(covered)]
            if has_state and all(b <= max(0, point - r) for b, r in zip(begins, reaches, strict=True)):
                best = (node, point)
            covered = [_covered_from(node, g, before, node.end) for g, before in enumerate(covered)]
        return best

    def add(self, parent: Node, tokens: Tokens, usage: Usage) -> Node:
        """Hang a new edge under a node; the caller fills in the payload."""
        assert int(tokens[0]) not in parent.children
        node = Node(self, parent, tokens, usage)
        if not parent.is_leaf:
            self.n_leaves += 1
        parent.children[int(tokens[0])] = node
        parent.evicted.pop(int(tokens[0]), None)
        self.n_nodes += 1
        self.n_tokens += len(tokens)
        self.version += 1
        return node

    def split(self, node: Node, at: int, cuts: dict[Block, tuple[Block, Block]]) -> Node:
        """Cut an edge at a position inside it; returns the new upper node. `cuts` has the straddling blocks' parts."""
        assert node.start < at < node.end and node.parent is not None
        head = at - node.start
        upper = Node(self, node.parent, node.tokens[:head].copy(), node.usage.copy())
        upper.cache_type = node.cache_type
        node.parent.children[int(node.tokens[0])] = upper
        node.tokens = node.tokens[head:].copy()
        upper.children[int(node.tokens[0])] = node
        node.parent, node.start = upper, at
        for g, blocks in enumerate(node.spans):
            upper.spans[g], node.spans[g] = _divide(blocks, at, cuts)
        if node.tail_usage is not None and node.head_end <= at:
            node.usage, node.tail_usage, node.head_end = node.tail_usage, None, node.end
        upper.holds = {key: end for key, end in node.holds.items() if end <= at}
        node.holds = {key: end for key, end in node.holds.items() if end > at}
        for key in upper.holds:
            key.node = upper
        self.n_nodes += 1
        self.version += 1
        return upper

    def remove(self, node: Node) -> None:
        """Take a leaf off the tree."""
        parent = node.parent
        assert parent is not None and not node.children
        first = int(node.tokens[0])
        del parent.children[first]
        parent.remember_lost(first)
        if not parent.is_leaf:
            self.n_leaves -= 1
        self.n_nodes -= 1
        self.n_tokens -= len(node.tokens)
        self.version += 1

    def shorten(self, node: Node, end: int) -> list[Block]:
        """Cut a leaf's tail off at a block boundary of every group; returns the blocks taken away."""
        assert node.is_leaf and node.start < end < node.end
        keep = end - node.start
        node.evicted = {int(node.tokens[keep]): None}
        self.n_tokens -= node.end - end
        node.tokens = node.tokens[:keep].copy()
        lost = [block for blocks in node.spans for block in blocks if block.start >= end]
        node.spans = [[block for block in blocks if block.start < end] for blocks in node.spans]
        node.end = end
        node.head_end = min(node.head_end, end)
        self.version += 1
        return lost

    def nodes(self) -> Iterator[Node]:
        """Every node but the root."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def _covered_from(node: Node, group: int, before: int, point: int) -> int:
    """Where the unbroken run of the group's entries that ends at `point` begins; `before` is that at `node.start`."""
    cover = node.cover(group)
    return before if cover == node.start else min(cover, point)


def _divide(blocks: list[Block], at: int, cuts: dict[Block, tuple[Block, Block]]) -> tuple[list[Block], list[Block]]:
    left: list[Block] = []
    right: list[Block] = []
    for block in blocks:
        if block.end <= at:
            left.append(block)
        elif block.start >= at:
            right.append(block)
        else:
            first, second = cuts[block]
            left.append(first)
            right.append(second)
    return left, right


def as_tokens(tokens: Sequence[int] | Tokens) -> Tokens:
    """Token ids as an int32 array; no copy if they are one already."""
    return np.ascontiguousarray(tokens, dtype=np.int32)


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many leading tokens two arrays share."""
    n = min(len(a), len(b))
    # Most comparisons fail in the first few tokens or not at all: look there before comparing everything.
    done = min(n, _COMPARE_FIRST)
    differs = a[:done] != b[:done]
    first = int(differs.argmax()) if done else 0
    if done and differs[first]:
        return first
    if done == n:
        return n
    differs = a[done:n] != b[done:n]
    first = int(differs.argmax())
    return done + first if differs[first] else n
