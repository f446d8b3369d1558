"""The eviction of entries, in the policy's order. Not thread-safe: called with the cache's lock held. No mlx."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable

from mlx_cache.blocks import Block, State
from mlx_cache.policy import EvictionPolicy, Usage
from mlx_cache.stats import Counters
from mlx_cache.tree import Node

_USELESS = float("-inf")
_UNTIDY = 1024

Entry = tuple[float, int, bool, Node, int]


class Eviction:
    """Bytes, buffers, and the heap of what can be evicted: blocks off the end of leaves, and inner snapshots.

    Invariant: `nbytes` is the sum of `Node.nbytes` over every live tree. What is evicted waits in `trash`, so that
    the buffers are freed after the lock is released.
    """

    def __init__(self, policy: EvictionPolicy, counters: Counters) -> None:
        self.policy = policy
        self.nbytes = 0
        self.n_buffers = 0
        self.trash: list[Block | State] = []
        # Told of a node, and from where on, just before its blocks or its snapshot go.
        self.on_evict: Callable[[Node, int], None] = lambda node, start: None
        self._counters = counters
        # One heap for each of the policy's orders, of the same things.
        self._heaps: list[list[Entry]] = [[] for _ in range(policy.n_orders)]
        self._tidy_at = _UNTIDY
        self._order = itertools.count()

    def value(self, node: Node) -> float:
        """Tokens of prefill saved by a byte of this edge, in units of a byte of plain entries.

        All tokens count alike. Attention makes deep tokens dearer to recompute, but weighing that in keeps long
        documents that are asked about once: on a trace of real requests it cost more hits than it saved.
        """
        full = (node.end - node.start) * _bytes_per_token(node)
        return full / (full + node.snapshot_nbytes)

    def state_value(self, node: Node) -> float:
        """The same of a snapshot: without it, prefill restarts at the snapshot before."""
        return _restarts_behind(node) * _bytes_per_token(node) / max(1, node.snapshot_nbytes)

    def offer(self, node: Node) -> None:
        """Put a leaf, or an inner node's snapshot, in the queue, with its present priority."""
        if node.is_root:
            return
        if not node.children:
            node.stamp += 1
            self._push(self._leaf_priorities(node), True, node, node.stamp)
        elif node.state_usage is not None and node.has_snapshot:
            node.state_stamp += 1
            self._push(self.policy.priorities(node.state_usage), False, node, node.state_stamp)

    def _push(self, priorities: Iterable[float], leaf: bool, node: Node, stamp: int) -> None:
        order = next(self._order)
        for heap, priority in zip(self._heaps, priorities, strict=True):
            heapq.heappush(heap, (priority, order, leaf, node, stamp))
        # An order that is not followed is never popped from, and what is gone must not stay in it for long.
        if max(map(len, self._heaps)) > self._tidy_at:
            for heap in self._heaps:
                heap[:] = filter(_is_current, heap)
                heapq.heapify(heap)
            self._tidy_at = 2 * len(self._heaps[0]) + _UNTIDY

    def shrink(self, *, max_bytes: int, max_buffers: int) -> bool:
        """Evict until both limits hold; False if what is left is held."""
        kept: list[tuple[int, Entry]] = []
        while self.nbytes > max_bytes or self.n_buffers > max_buffers:
            order = self.policy.order()
            if not self._heaps[order]:
                break
            entry = heapq.heappop(self._heaps[order])
            if not _is_current(entry):
                continue
            if not self._evict(entry[3], entry[2]):
                kept.append((order, entry))
        self._put_back(kept)
        return self.nbytes <= max_bytes and self.n_buffers <= max_buffers

    def drop_sequence(self) -> bool:
        """Evict the least valuable leaf with everything above it that nothing else needs; False if all are held."""
        kept: list[tuple[int, Entry]] = []
        order, done = self.policy.order(), False
        while self._heaps[order] and not done:
            entry = heapq.heappop(self._heaps[order])
            if not _is_current(entry):
                continue
            node = entry[3]
            if not entry[2] or node.holds:
                kept.append((order, entry))
                continue
            while node.parent is not None and node.is_leaf and not node.holds:
                self.policy.evicted(_leaf_usage(node), tokens=node.end - node.start)
                self._remove(node)
                node = node.parent
            if node.is_leaf:
                self.offer(node)
            done = True
        self._put_back(kept)
        return done

    def drop_tail(self, node: Node, keep: int) -> None:
        """Remove a leaf, then what is above it and has become one, as long as it begins at `keep` or later."""
        while node.parent is not None and node.is_leaf and not node.holds and node.start >= keep:
            self._remove(node, told=False)
            node = node.parent
        if node.is_leaf:
            self.offer(node)

    def _put_back(self, kept: list[tuple[int, Entry]]) -> None:
        for order, entry in kept:
            heapq.heappush(self._heaps[order], entry)

    def _leaf_priorities(self, node: Node) -> Iterable[float]:
        if node.tree.layout.has_state and node.state is None:
            return itertools.repeat(_USELESS, len(self._heaps))
        return self.policy.priorities(_leaf_usage(node))

    def forget(self, node: Node) -> None:
        """Give up a node's buffers without touching the tree, which is being dropped as a whole."""
        self.nbytes -= node.nbytes
        self.n_buffers -= node.n_buffers
        # Nodes refer to each other in circles: left in them, the buffers would wait for a garbage collection.
        self.trash.extend(block for blocks in node.spans for block in blocks)
        if node.state is not None:
            self.trash.append(node.state)
        node.spans, node.state = [[] for _ in node.spans], None

    def _evict(self, node: Node, leaf: bool) -> bool:
        if not leaf:
            if node.holds or _children_need_windows(node):
                return False
            self.policy.evicted(node.state_usage or node.usage, tokens=_restarts_behind(node))
            self.on_evict(node, node.end)
            self._drop_snapshot(node)
            return True
        held = node.held_to()
        full = node.spans[0] if node.spans and node.tree.layout.cuttable else []
        if full and full[-1].start > node.start:
            if full[-1].start < held:
                return False
            self.policy.evicted(_leaf_usage(node), tokens=node.end - full[-1].start)
            self.on_evict(node, full[-1].start)
            self._discard(node.tree.shorten(node, full[-1].start))
            self.offer(node)
            return True
        if node.holds:
            return False
        self.policy.evicted(_leaf_usage(node), tokens=node.end - node.start)
        above = node.parent
        self._remove(node)
        if above is not None and above.is_leaf:
            self.offer(above)
        return True

    def _remove(self, node: Node, *, told: bool = True) -> None:
        if told:
            self.on_evict(node, node.start)
        if node.has_snapshot:
            self._drop_snapshot(node)
        self._discard([block for blocks in node.spans for block in blocks])
        node.spans = [[] for _ in node.spans]
        node.stamp += 1
        node.tree.remove(node)

    def _drop_snapshot(self, node: Node) -> None:
        if node.state is not None:
            self.nbytes -= node.state.nbytes
            self.n_buffers -= node.state.n_buffers
            self._counters.evicted_bytes += node.state.nbytes
            self.trash.append(node.state)
        for g in node.tree.windows:
            self._discard(node.spans[g])
            node.spans[g] = []
        self._counters.evicted_states += 1
        node.state, node.state_usage, node.lost_state = None, None, True
        node.state_stamp += 1
        node.tree.version += 1

    def _discard(self, blocks: list[Block]) -> None:
        size = sum(block.nbytes for block in blocks)
        self.nbytes -= size
        self.n_buffers -= len(blocks)
        self._counters.evicted_bytes += size
        self._counters.evicted_blocks += len(blocks)
        self.trash.extend(blocks)


def _bytes_per_token(node: Node) -> int:
    return sum(g.bytes_per_token for g in node.tree.layout.groups if g.is_full) or 1


def _restarts_behind(node: Node) -> int:
    """Tokens between a snapshot and the one before."""
    above = node.parent
    while above is not None and above.parent is not None and not above.has_snapshot:
        above = above.parent
    return node.end - (above.end if above is not None else 0)


def _children_need_windows(node: Node) -> bool:
    """Whether a child's own entries do not reach back far enough to do without this node's."""
    groups = node.tree.layout.groups
    return any(
        node.spans[g] and child.cover(g) == child.start and child.end - child.start < groups[g].reach
        for child in node.children.values()
        for g in node.tree.windows
    )


def _leaf_usage(node: Node) -> Usage:
    last = node.spans[0][-1].start if node.spans and node.spans[0] else node.start
    return node.tail_usage if node.tail_usage is not None and node.head_end <= last else node.usage


def _is_current(entry: Entry) -> bool:
    _, _, leaf, node, stamp = entry
    if not node.tree.alive:
        return False
    return (node.is_leaf and stamp == node.stamp) if leaf else (bool(node.children) and stamp == node.state_stamp)
