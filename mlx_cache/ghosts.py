"""What a policy would hold and would have hit at the cache's budget: the index itself with nothing in its blocks.

No mlx. A ghost sees fingerprints, one for several tokens, so it costs a fraction of the index that it shadows.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from mlx_cache.blocks import Block, Group, Layout, State
from mlx_cache.eviction import Eviction
from mlx_cache.index import Index
from mlx_cache.plans import InsertPlan
from mlx_cache.policy import EvictionPolicy, Limits, Storing
from mlx_cache.stats import Counters
from mlx_cache.tree import Tokens

_IN_A_BLOCK = 8


class Fingerprints:
    """Folds `unit` tokens into one number, so that a ghost's tree is as many times smaller."""

    def __init__(self, block_tokens: int) -> None:
        self.unit = max(1, block_tokens // _IN_A_BLOCK)
        self.block = block_tokens // self.unit
        # Odd factors: a change of one token always changes the sum.
        self._factors = np.random.default_rng(0).integers(0, 1 << 30, self.unit).astype(np.int32) * 2 + 1
        self._layouts: dict[Layout, Layout] = {}

    def of(self, tokens: Tokens) -> Tokens:
        """One number for each whole unit of tokens."""
        if self.unit == 1:
            return tokens
        whole = len(tokens) // self.unit
        return np.einsum("ij,j->i", tokens[: whole * self.unit].reshape(whole, self.unit), self._factors)

    def fold(self, storing: Storing) -> Storing:
        """An insert in fingerprints, of a layout that weighs what the tokens weigh."""
        available = [-(-first // self.unit) for first in storing.available]
        return replace(
            storing, tokens=self.of(storing.tokens), layout=self._layout(storing.layout), available=available
        )

    def _layout(self, layout: Layout) -> Layout:
        if layout not in self._layouts:
            self._layouts[layout] = replace(layout, groups=tuple(map(self._group, layout.groups)))
        return self._layouts[layout]

    def _group(self, group: Group) -> Group:
        reach = group.reach if group.is_full else -(-group.reach // self.unit)
        return replace(group, reach=reach, bytes_per_token=group.bytes_per_token * self.unit)


class Ghost:
    """One policy's index. Bounded as the real one is, by the same bytes, of which it holds none."""

    def __init__(self, policy: EvictionPolicy, block_tokens: int) -> None:
        self._index = Index(
            Eviction(policy, Counters()), max_bytes=0, max_size=0, max_buffers=0, block_tokens=block_tokens
        )

    @property
    def n_fingerprints(self) -> int:
        """Fingerprints held."""
        return sum(tree.n_tokens for tree in self._index.trees())

    @property
    def nbytes(self) -> int:
        """The bytes that a cache under this policy would hold."""
        return self._index.eviction.nbytes

    def ask(self, key: Hashable, prompt: Tokens, limit: int) -> int:
        """How many fingerprints of a prompt would have been served."""
        return self._index.use(key, prompt, limit)[3]

    def store(self, storing: Storing, limits: Limits) -> int:
        """Hold what this policy's cache would hold after an insert; the bytes that are new to it."""
        index = self._index
        index.max_bytes, index.max_size, index.max_buffers = limits.max_bytes, limits.max_size, limits.max_buffers
        if not len(storing.tokens):
            index.eviction.policy.tick()
            return 0
        plan = index.plan_insert(
            storing.key, storing.layout, storing.tokens, snapshot=storing.snapshot,
            state_nbytes=storing.state_nbytes, available=storing.available,
        )  # fmt: skip
        if plan is not None:
            index.finish_insert(plan)
            index.commit_insert(plan, _blocks(plan), _state(plan, storing.state_nbytes), _cuts(plan), "")
        index.enforce()
        index.eviction.trash.clear()
        return plan.reserved if plan is not None else 0

    def drop(self, key: Hashable) -> None:
        """Forget a namespace."""
        self._index.drop(key)
        self._index.eviction.trash.clear()


def _blocks(plan: InsertPlan) -> list[list[Block]]:
    groups = plan.tree.layout.groups
    return [
        [Block(low, high, (high - low) * group.bytes_per_token, None) for low, high in ranges]
        for group, ranges in zip(groups, plan.missing.ranges(), strict=True)
    ]


def _state(plan: InsertPlan, nbytes: int) -> State | None:
    return State(nbytes, 1, None) if plan.missing.wants_state else None


def _cuts(plan: InsertPlan) -> dict[Block, tuple[Block, Block]]:
    return {block: _cut(block, at) for block, at in plan.missing.cuts}


def _cut(block: Block, at: int) -> tuple[Block, Block]:
    each = block.nbytes // (block.end - block.start)
    return (
        Block(block.start, at, (at - block.start) * each, None),
        Block(at, block.end, (block.end - at) * each, None),
    )
