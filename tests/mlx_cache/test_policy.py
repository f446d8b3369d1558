"""The order of eviction, without a cache."""

from __future__ import annotations

from mlx_cache.policy import EvictionPolicy, LeafLru, Usage, ValuePerByte


def settle(policy: EvictionPolicy, lasting: int = 10) -> None:
    """Let the policy see how long things last here."""
    usage = policy.made(value=1.0)
    for _ in range(lasting):
        policy.tick()
    policy.evicted(usage, tokens=1)


def made(policy: EvictionPolicy, value: float = 1.0) -> Usage:
    policy.tick()
    return policy.made(value=value)


def used(policy: EvictionPolicy, usage: Usage) -> None:
    policy.tick()
    policy.used(usage, value=1.0)


def test_without_evictions_value_per_byte_is_lru() -> None:
    for policy in (LeafLru(), ValuePerByte()):
        a, b, c = made(policy), made(policy), made(policy)
        used(policy, a)
        assert b.priority < c.priority < a.priority


def test_what_was_used_more_often_outlasts_what_is_newer() -> None:
    policy = ValuePerByte()
    settle(policy)
    often = made(policy)
    for _ in range(3):
        used(policy, often)
    newer = [made(policy) for _ in range(15)]
    assert newer[0].priority < often.priority < newer[-1].priority + 10


def test_what_saves_more_per_byte_outlasts_what_saves_less() -> None:
    policy = ValuePerByte()
    settle(policy)
    dense, sparse = made(policy, 1.0), made(policy, 0.25)
    assert sparse.priority < dense.priority


def test_old_hits_fade() -> None:
    policy = ValuePerByte()
    settle(policy)
    usage = made(policy)
    for _ in range(8):
        used(policy, usage)
    hits = usage.hits
    for _ in range(100):
        policy.tick()
    used(policy, usage)
    assert usage.hits < 2 < hits


def test_storing_something_again_refreshes_it_without_a_hit() -> None:
    for policy in (LeafLru(), ValuePerByte()):
        a, b = made(policy), made(policy)
        policy.tick()
        policy.stored_again(a, value=1.0)
        assert a.priority > b.priority and a.hits == 0


def test_two_parts_of_a_split_edge_age_apart() -> None:
    policy = ValuePerByte()
    head = made(policy)
    tail = head.copy()
    used(policy, head)
    assert tail.priority < head.priority and tail.hits == 0
