"""Stores what a cache covers: planned under the index's lock, copied without it, committed under it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_cache.blocks import Block, InconsistentCache, Layout, Payload, UnsupportedLayer
from mlx_cache.locked import LockedIndex
from mlx_cache.plans import InsertPlan
from mlx_cache.results import Inserted
from mlx_cache.stats import Refusal
from mlx_cache.tree import Tokens

logger = logging.getLogger(__name__)

_ATTEMPTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a caller wants stored: layer caches, and of which tokens they are.

    Attributes:
        snapshot: What can only be restored exactly at its end is stored too.
        apart: What is stored already is cut where the sequence ends.
        cache_type: Of whoever wrote it, for the counts.
    """

    key: Hashable
    tokens: Tokens
    caches: Sequence[Any]
    snapshot: bool
    apart: bool
    cache_type: str


@dataclass(frozen=True, slots=True)
class _Covered:
    """What of it can be stored."""

    tokens: Tokens
    layout: Layout
    available: list[int]
    state_nbytes: int


class Inserts:
    """Any thread. Several inserts of the same may run at once: one whose plan no longer holds is planned again."""

    def __init__(self, locked: LockedIndex) -> None:
        self._locked = locked

    def insert(self, given: Given, payload: Payload) -> Inserted:
        """See `PromptCache.insert`."""
        try:
            covered = _look(given, payload)
        except UnsupportedLayer as error:
            return self._unsupported(given.key, str(error))
        except InconsistentCache as error:
            logger.warning("prompt cache not stored: %s", error)
            return self.refuse(Refusal.INCONSISTENT)
        if covered is None:
            return self.refuse(Refusal.EMPTY)
        return self._store(given, covered, payload)

    def refuse(self, refusal: Refusal) -> Inserted:
        """Count an insert that stores nothing."""
        with self._locked.looking():
            self._locked.counters.refused(refusal)
        return Inserted(0, 0, refusal)

    def _store(self, given: Given, covered: _Covered, payload: Payload) -> Inserted:
        for _ in range(_ATTEMPTS):
            with self._locked.changing() as index:
                plan = index.plan_insert(
                    given.key,
                    covered.layout,
                    covered.tokens,
                    snapshot=given.snapshot,
                    apart=given.apart,
                    state_nbytes=covered.state_nbytes,
                    available=covered.available,
                )
            if plan is None:
                return self.refuse(Refusal.NO_ROOM)
            done = self._carry_out(plan, payload, given)
            if not plan.tree.alive:
                return self.refuse(Refusal.CLEARED)
            if done:
                return Inserted(plan.missing.length, plan.missing.length - plan.missing.at)
        return self.refuse(Refusal.CONTENDED)

    def _carry_out(self, plan: InsertPlan, payload: Payload, given: Given) -> bool:
        missing, layout, caches, done = plan.missing, plan.tree.layout, given.caches, False
        try:
            blocks = payload.copy_blocks(caches, layout, missing.ranges())
            state = payload.copy_state(caches, layout) if missing.wants_state else None
            parts = payload.cut(layout, missing.cuts) if missing.cuts else []
            cuts: dict[Block, tuple[Block, Block]] = {
                block: pair for (block, _), pair in zip(missing.cuts, parts, strict=True)
            }
        except BaseException:
            with self._locked.changing() as index:
                index.finish_insert(plan)
                index.enforce()
            raise
        with self._locked.changing() as index:
            # The room reserved becomes the bytes committed, in one step.
            index.finish_insert(plan)
            if plan.tree.alive:
                done = index.commit_insert(plan, blocks, state, cuts, given.cache_type)
            index.enforce()
            if done:
                self._locked.pins_changed()
                self._locked.counters.inserts += 1
                self._locked.counters.tokens_stored += missing.length - missing.at
        return done

    def _unsupported(self, key: Hashable, name: str) -> Inserted:
        with self._locked.looking() as index:
            counts = self._locked.counters.unsupported
            first = name not in counts
            counts[name] = counts.get(name, 0) + 1
            index.unsupported[key] = name
        if first:
            logger.warning("prompts are not cached: layer cache class %s is not known", name)
        return self.refuse(Refusal.UNSUPPORTED_LAYER)


def _look(given: Given, payload: Payload) -> _Covered | None:
    """What the caches cover; None for nothing.

    Raises:
        InconsistentCache: More than there are tokens, or not all of them the same.
        UnsupportedLayer: A layer's class is not known.
    """
    offset = payload.offset(given.caches)
    length = len(given.tokens) if offset is None else offset
    if length > len(given.tokens):
        raise InconsistentCache(f"layers cover {length} tokens, the key has {len(given.tokens)}")
    if length == 0:
        return None
    layout = payload.layout(given.caches)
    available = payload.available(given.caches, layout)
    wants_state = layout.has_state and given.snapshot
    state_nbytes = payload.state_nbytes(given.caches, layout) if wants_state else 0
    return _Covered(given.tokens[:length], layout, available, state_nbytes)
