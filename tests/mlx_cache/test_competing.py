"""The default policy against leaf LRU on traces of many shapes, and what its ghosts may cost."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cache_payload import EmptyPayload, layer
from benchmarks.cache_shapes import BLOCK, SHAPES, Request, distinct_blocks, made, mixed
from benchmarks.cache_trace import replay, replay_clairvoyant
from mlx_cache import CompetingPolicy, LeafLru, PromptCache, ValuePerByte
from mlx_cache.contest import Contest

SHARES = (0.02, 0.05, 0.10, 0.20, 0.40)


def worst_ratio(requests: list[Request], shares: tuple[float, ...] = SHARES) -> float:
    """The default policy's hit rate over leaf LRU's, at the budget where it is lowest."""
    distinct, ratios = distinct_blocks(requests), [1.0]
    for share in shares:
        budget = int(share * distinct) * BLOCK
        lru = replay(requests, budget, LeafLru())
        if lru:
            ratios.append(replay(requests, budget, CompetingPolicy()) / lru)
    return min(ratios)


@pytest.mark.parametrize("shape", ["agents", "drifting", "faded", "loops"])
def test_a_short_trace_loses_less_than_a_hundredth_to_leaf_lru(shape: str) -> None:
    assert worst_ratio(made(shape, 1, 100), (0.05, 0.20)) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_loses_less_than_a_hundredth_to_leaf_lru_at_every_budget(shape: str) -> None:
    assert worst_ratio(made(shape, 0, 200)) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_random_mixture_loses_less_than_a_hundredth_to_leaf_lru(seed: int) -> None:
    assert worst_ratio(mixed(seed, 200), (0.05, 0.10, 0.40)) >= 0.99


def test_where_counting_uses_pays_the_default_follows_it() -> None:
    requests = made("system_prompts", 1, 300)
    budget = int(0.10 * distinct_blocks(requests)) * BLOCK
    assert replay(requests, budget, CompetingPolicy()) > 1.01 * replay(requests, budget, LeafLru())


def _takes_one_for_the_other(self: Contest, *, baseline: int, rival: int, cache: int) -> None:
    _served(self, baseline=rival, rival=baseline, cache=cache)


_served = Contest.served
LOSING = "faded", 1, 300


@pytest.mark.parametrize(("name", "bug"), [("served", _takes_one_for_the_other)])
def test_a_planted_bug_falls_behind_leaf_lru(name: str, bug: object, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = made(*LOSING)
    assert worst_ratio(requests, (0.10,)) >= 0.99
    monkeypatch.setattr(Contest, name, bug)
    assert worst_ratio(requests, (0.10,)) < 0.99


class Recorder(Contest):
    """Follows the baseline and adds up what everybody served."""

    def __init__(self) -> None:
        super().__init__(step=BLOCK)
        self.sums = np.zeros(3, int)

    def served(self, *, baseline: int, rival: int, cache: int) -> None:
        self.sums += (baseline, rival, cache)

    def follow_rival(self) -> bool:
        return False


def test_each_ghost_serves_what_a_cache_of_its_policy_would() -> None:
    requests = made("agents", 3, 150)
    # No last block cut short: a ghost counts whole fingerprints.
    requests = [Request(request.blocks, len(request.blocks) * BLOCK + 1) for request in requests]
    budget = int(0.1 * distinct_blocks(requests)) * BLOCK
    policy = CompetingPolicy()
    policy._contest = recorder = Recorder()
    replay(requests, budget, policy)
    asked = sum(request.length for request in requests)
    unit = policy._fingerprints.unit
    for got, other in zip(recorder.sums, (LeafLru(), ValuePerByte(), LeafLru()), strict=True):
        # All but the last token is one fingerprint less where a whole prompt is stored.
        assert got == pytest.approx(replay(requests, budget, other) * asked, abs=unit * len(requests))
    assert recorder.sums[0] == recorder.sums[2] != recorder.sums[1]


def test_the_ghosts_hold_no_more_than_the_cache_may() -> None:
    policy, tokens = CompetingPolicy(), 40 * BLOCK
    cache = PromptCache(max_bytes=tokens, payload=EmptyPayload(), policy=policy)
    rng = np.random.default_rng(0)
    for i in range(200):
        prompt = rng.integers(0, 1000, rng.integers(1, 9000)).astype(np.int32)
        for key in ("a", "b"):
            cache.fetch(key, prompt)
            if i % 3:
                cache.insert(key, prompt, layer(len(prompt)))
        assert policy.n_fingerprints * policy._fingerprints.unit <= 2 * tokens
        assert policy._n_waiting <= 1 << 20
        assert policy._contest.n_exposed <= 2 * tokens // BLOCK
    cache.clear()
    assert policy.n_fingerprints == 0


def test_fetches_alone_do_not_pile_up() -> None:
    policy = CompetingPolicy()
    cache = PromptCache(payload=EmptyPayload(), policy=policy)
    for _ in range(300):
        cache.fetch("m", np.zeros(9000, np.int32))
        assert sum(len(asked.tokens) for asked in policy._waiting) <= 1 << 20


@pytest.mark.parametrize("shape", ["agents", "rag"])
def test_no_policy_serves_more_than_the_clairvoyant_one(shape: str) -> None:
    requests = made(shape, 2, 100)
    blocks = distinct_blocks(requests) // 10
    best = replay_clairvoyant(requests, blocks)
    assert best >= replay(requests, blocks * BLOCK, LeafLru()) and best >= replay(
        requests, blocks * BLOCK, ValuePerByte()
    )
    assert replay_clairvoyant(requests, 1 << 40) == pytest.approx(replay(requests, 1 << 60, LeafLru()))
