"""Random histories of the cache against what must always hold, and bugs planted to see that it would show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlx_cache import LeafLru, PromptCache, ValuePerByte
from mlx_cache import tree as tree_module
from mlx_cache.blocks import Layout
from mlx_cache.index import Index
from mlx_cache.tree import Tree
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_consistent, check_content, longest_restorable

SPACES = ("a/1", "a/2", "b/1")
SPACE = st.sampled_from(SPACES)
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=14)
MANY = settings(max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
BUG = settings(
    MANY, max_examples=3000, phases=(Phase.generate,), derandomize=True, database=None, report_multiple_bugs=False
)


class Abort(Exception):
    """Raised from inside a copy."""


class Machine(RuleBasedStateMachine):
    """One cache, three namespaces, one layout; everything in between calls is checked."""

    @initialize(
        layout=st.sampled_from(sorted(LAYOUTS)),
        max_bytes=st.sampled_from([200, 90, 40, 12, 0]),
        max_size=st.none() | st.integers(0, 4),
        block_tokens=st.integers(1, 5),
        policy=st.sampled_from([LeafLru, ValuePerByte, None]),
    )
    def start(
        self, layout: str, max_bytes: int, max_size: int | None, block_tokens: int, policy: type[LeafLru] | None
    ) -> None:
        self.layout: Layout = LAYOUTS[layout]
        self.payload = FakePayload()
        self.lru = policy is LeafLru
        self.cache = PromptCache(
            max_size, max_bytes, policy=policy and policy(), payload=self.payload,
            block_tokens=block_tokens,
        )  # fmt: skip
        self.seen: dict[str, list[tuple[int, ...]]] = {space: [] for space in SPACES}
        self.pins: dict[str, tuple[str, tuple[int, ...], int]] = {}

    def _insert(self, space: str, tokens: Sequence[int], covered: int, snapshot: bool = True) -> None:
        caches = FakeCache.after(self.layout, space, tokens[:covered])
        done = self.cache.insert(space, tokens, caches, snapshot=snapshot)
        assert done.length <= len(tokens)
        if done.refusal is None and (snapshot or self.layout.cuttable):
            self.seen[space].append(tuple(tokens[: done.length]))

    @rule(space=SPACE, tokens=TOKENS, uncovered=st.integers(0, 3), snapshot=st.booleans())
    def insert(self, space: str, tokens: list[int], uncovered: int, snapshot: bool) -> None:
        uncovered = uncovered if self.layout.groups else 0
        self._insert(space, tokens, max(0, len(tokens) - uncovered), snapshot)

    @rule(space=SPACE, tokens=TOKENS, more=TOKENS)
    def converse(self, space: str, tokens: list[int], more: list[int]) -> None:
        self._insert(space, tokens, len(tokens))
        self._insert(space, tokens + more, len(tokens + more))

    @rule(space=SPACE, tokens=TOKENS, known=st.none() | st.integers(0, 9), keep=st.integers(1, 20))
    def fetch(self, space: str, tokens: list[int], known: int | None = None, keep: int = 0) -> None:
        if known is not None and self.seen[space]:
            sequence = self.seen[space][known % len(self.seen[space])][:keep]
            tokens = [*sequence, *tokens[: keep % 3]]
        wanted = longest_restorable(self.cache, space, tokens)
        assert self.cache.match_length(space, tokens) == wanted
        caches, rest = self.cache.fetch_nearest_cache(space, tokens)
        assert rest and len(tokens) - len(rest) == wanted
        assert (caches is None) == (wanted == 0)
        if caches is not None:
            check_content(caches, space, tokens[:wanted])
            # The caller may do what it likes with its own.
            for entries in caches[0].groups:
                entries.clear()
            if caches[0].state is not None:
                caches[0].state.clear()
            again = self.cache.fetch(space, tokens)
            check_content(again.caches or [], space, tokens[:wanted])

    @precondition(lambda self: self.cache.stats()["evicted_blocks"] + self.cache.stats()["evicted_states"] == 0)
    @rule(space=SPACE, tokens=TOKENS)
    def fetch_before_any_eviction(self, space: str, tokens: list[int]) -> None:
        agreed = [_agreeing(tokens[:-1], seen) for seen in self.seen[space]]
        if self.layout.cuttable:
            assert self.cache.match_length(space, tokens) == max(agreed, default=0)
        else:
            whole = [n for n, seen in zip(agreed, self.seen[space], strict=True) if n == len(seen)]
            assert self.cache.match_length(space, tokens) >= max(whole, default=0)

    @precondition(lambda self: self.lru and self.layout.cuttable)
    @rule(first=TOKENS, second=TOKENS, more=st.integers(0, 2))
    def what_was_used_last_goes_last(self, first: list[int], second: list[int], more: int) -> None:
        self._insert("a/1", [0, *first], len(first) + 1)
        self._insert("a/1", [1, *second], len(second) + 1)
        trees = {
            space: tree for space, by_layout in self.cache._locked.index.spaces.items() for tree in by_layout.values()
        }
        leaves = [(n.usage.priority, s, n) for s, tree in trees.items() for n in tree.nodes() if n.is_leaf]
        if len(leaves) < 2 or any(node.holds for _, _, node in leaves):
            return
        _, space, oldest = min(leaves, key=lambda leaf: leaf[0])
        tokens = [int(token) for node in oldest.path() for token in node.tokens]
        length = self.cache.fetch(space, [*tokens, more]).length
        self.cache.trim_to(n_bytes=self.cache.nbytes - 1)
        assert self.cache.match_length(space, [*tokens, more]) == length == len(tokens)

    @rule(name=st.sampled_from("pq"), space=SPACE, tokens=TOKENS)
    def pin(self, name: str, space: str, tokens: list[int]) -> None:
        held = self.cache.pin(name, space, tokens)
        self.pins[name] = (space, tuple(tokens), held)

    @rule(name=st.sampled_from("pq"))
    def unpin(self, name: str) -> None:
        assert self.cache.unpin(name) == (name in self.pins)
        self.pins.pop(name, None)

    @rule(n_bytes=st.integers(0, 60) | st.none(), n_sequences=st.integers(0, 3) | st.none())
    def trim(self, n_bytes: int | None, n_sequences: int | None) -> None:
        self.cache.trim_to(n_bytes=n_bytes, n_sequences=n_sequences)
        if not self.pins:
            assert n_bytes is None or self.cache.nbytes <= n_bytes
            assert n_sequences is None or len(self.cache) <= n_sequences

    @rule(n_bytes=st.sampled_from([60, 30, 9, 200]))
    def limit(self, n_bytes: int) -> None:
        """As rows that run leave it more, or less."""
        if self.cache.max_bytes:
            self.cache.max_bytes = n_bytes

    @precondition(lambda self: any(self.seen.values()))
    @rule(name=st.sampled_from("pq"), known=st.integers(0, 9), keep=st.integers(1, 9))
    def name(self, name: str, known: int, keep: int) -> None:
        """A beginning is stored by itself and held: the pin has not a token of what goes on from there."""
        stored = [(space, tokens) for space, told in self.seen.items() for tokens in told]
        space, tokens = stored[known % len(stored)]
        beginning = list(tokens[:keep])
        self.pin(name, space, beginning)
        done = self.cache.insert(space, beginning, FakeCache.after(self.layout, space, beginning), apart=True)
        if done.refusal is None and done.length == len(beginning):
            self.seen[space].append(tuple(beginning))
            self.pin(name, space, beginning)
            assert all(hold.node.end == hold.end for hold in self.cache._locked.index.pins[name].holds)

    @rule(space=SPACE | st.none())
    def clear(self, space: str | None) -> None:
        self.cache.clear(space)
        for name in SPACES if space is None else [space]:
            assert self.cache.match_length(name, [0, 1, 2]) == 0
            self.seen[name] = []
        self.pins = {name: pin for name, pin in self.pins.items() if space is not None and pin[0] != space}
        if space is None:
            assert self.cache.nbytes == len(self.cache) == 0

    @rule(space=SPACE, tokens=TOKENS)
    def abort(self, space: str, tokens: list[int]) -> None:
        def fail() -> None:
            raise Abort

        before = self.cache.match_length(space, [*tokens, 0])
        self.payload.during_copy = fail
        try:
            self._insert(space, tokens, len(tokens))
        except Abort:
            assert self.cache.match_length(space, [*tokens, 0]) <= before
        finally:
            self.payload.during_copy = lambda: None

    @rule(data=st.data(), space=SPACE, tokens=TOKENS, kind=st.sampled_from(["same", "other", "trim", "clear", "fetch"]))
    def insert_while_another_thread_works(self, data: Any, space: str, tokens: list[int], kind: str) -> None:
        keep, other = data.draw(st.integers(0, len(tokens))), data.draw(TOKENS)

        def meanwhile() -> None:
            self.payload.during_copy = lambda: None
            if kind in ("same", "other"):
                sequence = tokens[:keep] + other if kind == "other" else tokens
                self._insert(space, sequence, len(sequence))
            elif kind == "trim":
                self.cache.trim_to(n_bytes=0)
            elif kind == "fetch":
                self.fetch(space, [*tokens, 0])
            else:
                self.clear(space)

        self.payload.during_copy = meanwhile
        self._insert(space, tokens, len(tokens))
        self.payload.during_copy = lambda: None

    @rule(space=SPACE, tokens=TOKENS)
    def overfilled(self, space: str, tokens: list[int]) -> None:
        if self.layout.groups and self.cache._locked.index.max_bytes and self.cache._locked.index.max_size:
            caches = FakeCache.after(self.layout, space, [*tokens, *tokens])
            assert str(self.cache.insert(space, tokens, caches).refusal) == "inconsistent"

    @invariant()
    def consistent(self) -> None:
        check_consistent(self.cache)
        assert len(self.cache) <= self.cache.max_size or self.pins

    @invariant()
    def pinned_stay(self) -> None:
        for space, tokens, held in self.pins.values():
            assert self.cache.match_length(space, [*tokens, 0]) >= held


def _agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_any_history_keeps_every_invariant() -> None:
    run_state_machine_as_test(Machine, settings=MANY)


def _drop_last_token(
    self: FakePayload, layout: Layout, restorable: Any, room: int, *, as_stored: bool = False
) -> list[Any]:
    caches = FakePayload._restore(self, layout, restorable, room, as_stored=as_stored)  # type: ignore[attr-defined]
    for entries in caches[0].groups[:1]:
        entries.pop()
    return caches


def _share(self: FakePayload, layout: Layout, restorable: Any, room: int, *, as_stored: bool = False) -> list[Any]:
    caches = FakePayload._restore(self, layout, restorable, room, as_stored=as_stored)  # type: ignore[attr-defined]
    for g, pieces in enumerate(restorable.pieces):
        if len(pieces) == 1 and len(pieces[0].block.data) == pieces[0].end - pieces[0].start:
            caches[0].groups[g] = pieces[0].block.data
    return caches


def _any_namespace(self: Index, key: Any, tokens: Any, limit: int) -> Any:
    found = [Index._best(self, k, tokens, limit) for k in (key, *self.spaces)]  # type: ignore[attr-defined]
    return max(found, key=lambda best: best[3])


def _only_say_held(self: Index, name: str) -> None:
    Index.__dict__["__hold_pin"](self, name)
    for hold in self.pins[name].holds:
        hold.release()
    self.pins[name].holds = []


BUGS: dict[str, tuple[Any, str, Any]] = {
    "a token too few is restored": (FakePayload, "restore", _drop_last_token),
    "what is restored is not a copy": (FakePayload, "restore", _share),
    "the namespace is ignored": (Index, "best", _any_namespace),
    "a fetch does not count as use": (Index, "_use", lambda *_: None),
    "the last token may match too": (
        Index, "find", lambda self, key, tokens, limit, **k: Index._find(self, key, tokens, limit + 1, **k),
    ),
    "a pin does not hold": (Index, "_hold_pin", _only_say_held),
    "a split counts nothing": (Index, "_count_cuts", lambda *_: None),
    "an aborted insert keeps its reservation": (Index, "finish_insert", lambda self, plan: plan.hold.release()),
    "a changed tree is not noticed": (
        Index, "plan_insert",
        lambda self, *a, **k: _never_changes(Index._plan_insert(self, *a, **k)),
    ),
    "windows are taken to reach everywhere": (Tree, "restorable", lambda self, match, limit: (
        match.last if match.last is not None and match.last.start < min(limit, match.length) else None,
        min(limit, match.length)) if not self.layout.has_state else Tree._restorable(self, match, limit)),
    "common prefixes are one too long": (
        tree_module, "common_prefix", lambda a, b: min(len(a), len(b), tree_module._common_prefix(a, b) + 1),
    ),
}  # fmt: skip


def _never_changes(plan: Any) -> Any:
    class Constant:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    if plan is not None:
        plan.version = Constant()
    return plan


LONGEST = ("a pin does not hold", "windows are taken to reach everywhere")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive if name in LONGEST else ()) for name in sorted(BUGS)]
)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, bug = BUGS[name]
    monkeypatch.setattr(owner, "_" + attribute, getattr(owner, attribute), raising=False)
    monkeypatch.setattr(owner, attribute, bug)
    with pytest.raises((AssertionError, IndexError, KeyError, ValueError)):
        run_state_machine_as_test(Machine, settings=BUG)
