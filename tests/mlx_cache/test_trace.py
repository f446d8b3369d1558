"""The eviction policy on a trace of real requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cache_shapes import BLOCK, distinct_blocks
from benchmarks.cache_trace import read, replay
from mlx_cache import CompetingPolicy, LeafLru

TRACE = Path(__file__).parents[3] / "shared" / "traces" / "conversation_trace.jsonl"


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.skipif(not TRACE.exists(), reason=f"THE TRACE IS MISSING: no {TRACE}; the policy is not compared")
def test_the_policy_beats_leaf_lru_on_a_trace_of_real_requests() -> None:
    requests = read(TRACE)
    distinct = distinct_blocks(requests)
    for share in (0.05, 0.10):
        budget = int(share * distinct) * BLOCK
        assert replay(requests, budget, CompetingPolicy()) > replay(requests, budget, LeafLru())
