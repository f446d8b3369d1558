"""Random histories of a cache over a disk, with restarts, damage and two workers, against what must always hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from mlx_cache import PromptCache
from mlx_cache.disk import DiskTier
from mlx_cache.disk.names import Chain
from mlx_cache.disk.offers import Offer
from mlx_cache.disk.system import System
from tests.mlx_cache.disk.parts import Clock, FakeCodec, files, template, temporaries
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_content

SPACE = st.sampled_from(["a", "b"])
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=14)
WORKER = st.integers(0, 1)
FEW = settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=60, stateful_step_count=40)
BUG = settings(
    FEW, max_examples=400, phases=(Phase.generate,), derandomize=True, database=None, report_multiple_bugs=False
)


class Unsynced(System):
    """Power does not fail here."""

    def sync(self, fd: int) -> None:
        pass


class Machine(RuleBasedStateMachine):
    """Two workers on one directory."""

    @initialize(
        layout=st.sampled_from(sorted(LAYOUTS)),
        block=st.integers(1, 5),
        max_bytes=st.sampled_from([1 << 20, 40 << 10, 15 << 10]),
        memory=st.sampled_from([200, 40, 12]),
    )
    def start(self, layout: str, block: int, max_bytes: int, memory: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kv-disk-"))
        self.layout, self.block, self.max_bytes, self.memory = layout, block, max_bytes, memory
        self.clock = Clock()
        self.disks, self.caches = [], list[PromptCache]()
        for _ in range(2):
            self._add()
        self.written: set[tuple[str, tuple[int, ...]]] = set()
        self.lost = self.damaged = False
        # Of each worker: the other has removed files since it looked last, and it takes them to be there.
        self.stale = [False, False]

    def _add(self, place: int | None = None) -> None:
        disk = DiskTier(
            self.root / "kv", max_bytes=self.max_bytes, block_tokens=self.block, bytes_per_second=None,
            codec=FakeCodec(), clock=self.clock, system=Unsynced(),
        )  # fmt: skip
        disk.open()
        cache = PromptCache(None, self.memory, payload=FakePayload(), block_tokens=4, disk=disk)
        if place is None:
            self.disks.append(disk)
            self.caches.append(cache)
        else:
            self.disks[place], self.caches[place] = disk, cache

    def teardown(self) -> None:
        for disk in getattr(self, "disks", []):
            disk.close(10)
        shutil.rmtree(getattr(self, "root", Path("/nowhere")), ignore_errors=True)

    @rule(worker=WORKER, space=SPACE, tokens=TOKENS)
    def insert(self, worker: int, space: str, tokens: list[int]) -> None:
        self.clock.now += 1
        self.caches[worker].insert(space, tokens, FakeCache.after(LAYOUTS[self.layout], space, tokens))

    @rule(worker=WORKER, space=SPACE, tokens=TOKENS)
    def fetch(self, worker: int, space: str, tokens: list[int]) -> None:
        fetched = self.caches[worker].fetch(space, tokens)
        if fetched.caches is not None:
            check_content(fetched.caches, space, tokens[: fetched.length])

    @rule(worker=WORKER, space=SPACE, tokens=TOKENS)
    def read(self, worker: int, space: str, tokens: list[int]) -> None:
        self.clock.now += 1
        cache = self.caches[worker]
        promised, at_most = cache.match_disk(space, tokens), cache.match_disk_at_most(space, tokens)
        fetched = cache.fetch_from_disk(space, tokens, template(self.layout))
        assert fetched.length <= min(at_most, len(tokens) - 1)
        assert fetched.length >= promised or self.lost or self.disks[1 - worker].stats()["evicted"]
        if fetched.caches is not None:
            check_content(fetched.caches, space, tokens[: fetched.length])

    @rule(worker=WORKER, space=SPACE, tokens=TOKENS)
    def read_through(self, worker: int, space: str, tokens: list[int]) -> None:
        cache = self.caches[worker]
        before = cache.match_length(space, tokens)
        if cache.match_disk(space, tokens) > before:
            # A fake cache from the disk has no tokens of its own to be stored under: give it those.
            fetched = cache.fetch_from_disk(space, tokens, template(self.layout))
            if fetched.caches is not None:
                fetched.caches[0].tokens = tokens[: fetched.length]
                cache.insert(space, tokens[: fetched.length], fetched.caches)

    @rule(worker=WORKER, space=SPACE, tokens=TOKENS, more=TOKENS)
    def what_is_flushed_is_found_after_a_restart(
        self, worker: int, space: str, tokens: list[int], more: list[int]
    ) -> None:
        self.insert(worker, space, tokens)
        known = self.caches[worker].match_length(space, [*tokens, 3])
        assert self.caches[worker].flush(60)
        stale = self.stale[worker]
        self.restart(worker)
        if known == len(tokens) and not stale and self.max_bytes == 1 << 20:
            assert self.caches[worker].match_disk(space, [*tokens, 3, *more]) == len(tokens)
            self.read(worker, space, [*tokens, 3, *more])

    @rule(worker=WORKER)
    def restart(self, worker: int) -> None:
        self.disks[worker].close(10)
        self._add(worker)
        self.stale[worker] = False

    @rule(worker=WORKER, n=st.integers(0, 60))
    def trim(self, worker: int, n: int) -> None:
        self.caches[worker].trim_to(n_bytes=n)

    @rule(worker=WORKER, name=st.sampled_from("pq"), space=SPACE, tokens=TOKENS)
    def pin(self, worker: int, name: str, space: str, tokens: list[int]) -> None:
        self.caches[worker].pin(name, space, tokens)

    @rule(worker=WORKER, name=st.sampled_from("pq"))
    def unpin(self, worker: int, name: str) -> None:
        self.caches[worker].unpin(name)

    @rule(worker=WORKER, space=SPACE, tokens=TOKENS)
    def forget(self, worker: int, space: str, tokens: list[int]) -> None:
        self.lost = self.stale[1 - worker] = True
        self.disks[worker].forget(space, tokens)

    @rule(worker=WORKER, space=SPACE | st.none())
    def clear(self, worker: int, space: str | None) -> None:
        self.lost = self.stale[1 - worker] = True
        self.disks[worker].clear(space)
        for name in "ab" if space is None else space:
            assert self.disks[worker].match(name, [0, 1, 2]) == 0

    @rule(worker=WORKER)
    def rescan(self, worker: int) -> None:
        assert self.disks[worker].flush(60)
        self.clock.now += 100
        self.disks[worker]._opened.writer.housekeep()
        self.stale[worker] = False

    @rule(which=st.integers(0, 99), at=st.integers(0, 1 << 16), cut=st.booleans())
    def damage(self, which: int, at: int, cut: bool) -> None:
        there = files(self.root / "kv")
        if there:
            self.lost = self.damaged = True
            path = there[which % len(there)]
            told = bytearray(path.read_bytes())
            told[at % len(told)] ^= 4
            # Another file in its place, as a torn write or a bad sector would leave it.
            path.unlink()
            path.write_bytes(told[: at % len(told)] if cut else told)

    @invariant()
    def within_the_budget(self) -> None:
        assert all(disk.flush(30) for disk in self.disks)
        for disk in self.disks:
            stats = disk.stats()
            assert stats["state"] == "on" and stats["waiting_bytes"] == 0
            assert self.damaged or stats["quarantined"] == 0
            catalog = disk._opened.catalog
            assert catalog.nbytes == sum(entry.nbytes for entry in catalog)
            assert temporaries(self.root / "kv") == []


def test_any_history_over_a_disk_gives_what_was_stored_or_nothing() -> None:
    run_state_machine_as_test(Machine, settings=FEW)


@pytest.mark.slow
def test_any_longer_history_over_a_disk_gives_what_was_stored_or_nothing() -> None:
    run_state_machine_as_test(Machine, settings=MANY)


BUGS: dict[str, tuple[Any, str, Any]] = {
    "the namespace is not in the hash": (Chain, "namespace", lambda self, text: "0" * 32),
    "a block is named by its own tokens alone": (
        Chain, "block", lambda self, parent, tokens: Chain._block(self, b"", tokens),
    ),
    "what is offered starts a token late": (
        Offer, "block", lambda self, start, end: Offer._block(self, start + 1, end),
    ),
}  # fmt: skip


LONGEST = ("the namespace is not in the hash",)


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
