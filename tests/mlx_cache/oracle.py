"""What must hold of a cache at any moment, worked out from its tree the slow way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mlx_cache import PromptCache
from mlx_cache.blocks import Block
from mlx_cache.tree import Node, Tree
from tests.mlx_cache.fake import FakeCache, entry


def check_consistent(cache: PromptCache) -> None:
    """Every invariant of the index; valid while no call is running."""
    index = cache._locked.index
    nodes = [node for tree in index.trees() for node in tree.nodes()]
    assert index.reserved == 0
    assert index.eviction.nbytes == sum(node.nbytes for node in nodes)
    assert index.eviction.nbytes <= index.max_bytes or not any(map(_may_go, nodes)), (
        "over its limit by what is not held"
    )
    assert index.eviction.n_buffers == sum(node.n_buffers for node in nodes)
    assert not index.eviction.trash
    assert len(cache) == sum(not node.children for node in nodes)
    for tree in index.trees():
        assert tree.n_tokens == sum(len(node.tokens) for node in tree.nodes())
        assert tree.n_nodes == sum(1 for _ in tree.nodes())
        assert not tree.root.holds
    pinned = {id(hold) for pin in index.pins.values() for hold in pin.holds}
    for node in nodes:
        _check_node(node)
        assert {id(hold) for hold in node.holds} <= pinned, "a hold outlived its call"
        assert all(hold.node is node and hold.end <= node.end for hold in node.holds)


def _may_go(node: Node) -> bool:
    """Whether anything of a node could be evicted now: all that pins and running calls do not need."""
    layout, held = node.tree.layout, max((hold.end for hold in node.holds), default=None)
    if held is None:
        return node.is_leaf or (node.has_snapshot and not _is_built_upon(node))
    # By whole blocks, from the end; a state goes only with its node.
    return node.is_leaf and layout.cuttable and node.spans[0][-1].start >= max(held, node.start + 1)


def _is_built_upon(node: Node) -> bool:
    """Whether a window that begins in a child reaches back into this node."""
    windows = [(g, group) for g, group in enumerate(node.tree.layout.groups) if not group.is_full]
    return any(
        node.spans[g] and child.cover(g) == child.start and child.end < child.start + group.reach
        for g, group in windows
        for child in node.children.values()
    )


def _check_node(node: Node) -> None:
    assert node.start < node.end == node.start + len(node.tokens)
    assert node.parent is not None and node.start == node.parent.end
    for first, child in node.children.items():
        assert first == child.tokens[0] and child.parent is node
    for group, blocks in zip(node.tree.layout.groups, node.spans, strict=True):
        assert not group.is_full or node.cover(node.tree.layout.groups.index(group)) == node.start
        assert all(a.end == b.start for a, b in pairwise(blocks))
        assert all(block.end - block.start <= node.tree.block_tokens for block in blocks)
        assert not blocks or (blocks[0].start >= node.start and blocks[-1].end == node.end)


def longest_restorable(cache: PromptCache, key: str, tokens: Sequence[int]) -> int:
    """The longest prefix of all but the last token for which every entry a model needs is somewhere on the path."""
    best = 0
    for tree in cache._locked.index.spaces.get(key, {}).values():
        best = max([best, *(n for n in range(1, len(tokens)) if _can_restore(tree, tokens[:n]))])
    return best


def _can_restore(tree: Tree, tokens: Sequence[int]) -> bool:
    node, n = tree.root, 0
    blocks: list[list[Block]] = [[] for _ in tree.layout.groups]
    while n < len(tokens):
        child = next((c for c in node.children.values() if c.tokens[0] == tokens[n]), None)
        if child is None:
            return False
        part = list(child.tokens[: len(tokens) - n])
        if part != list(tokens[n : n + len(part)]):
            return False
        for g, mine in enumerate(child.spans):
            blocks[g].extend(mine)
        node, n = child, n + len(part)
    if tree.layout.has_state and (node.state is None or node.end != len(tokens)):
        return False
    return all(
        all(any(b.start <= i < b.end for b in mine) for i in range(max(0, len(tokens) - group.reach), len(tokens)))
        for group, mine in zip(tree.layout.groups, blocks, strict=True)
    )


def check_content(caches: list[Any], space: str, tokens: Sequence[int]) -> None:
    """A restored fake cache holds exactly what a model would after `tokens`."""
    (got,) = caches
    (wanted,) = FakeCache.after(got.layout, space, tokens)
    assert got.groups == wanted.groups
    assert got.state == wanted.state == ([entry(space, tokens, len(tokens) - 1)] if got.layout.has_state else None)
