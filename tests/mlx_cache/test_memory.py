"""Bytes: what is accounted is what the process holds, shared prefixes are held once, buffers stay few."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from mlx_cache import PromptCache
from mlx_cache.blocks import EVERYTHING, Block, Group, Layout
from mlx_cache.cache import MAX_BUFFERS
from mlx_cache.tree import Tree
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_consistent

METAL_BUFFERS = 499_000
LAYERS, HEADS, FEATURES = 4, 2, 16
TOKEN_BYTES = 2 * LAYERS * HEADS * FEATURES * 2


def layers(n: int, hybrid: bool = False) -> list[Any]:
    """Layer caches that cover n tokens; values do not matter here."""
    caches: list[Any] = [KVCache() for _ in range(LAYERS)]
    if hybrid:
        caches += [ArraysCache(1), RotatingKVCache(max_size=64)]
        caches[-2][0] = mx.ones((1, 16, 16))
    for cache in caches:
        if not isinstance(cache, ArraysCache):
            entries = mx.ones((1, HEADS, n, FEATURES), mx.float16)
            cache.update_and_fetch(entries, entries)
    return caches


@pytest.fixture(autouse=True)
def no_buffer_pool() -> Iterator[None]:
    """MLX may hand out a pooled buffer up to two pages larger than asked for, much for the tiny blocks here."""
    limit = mx.set_cache_limit(0)
    yield
    mx.set_cache_limit(limit)


def active() -> int:
    """Bytes that MLX holds now."""
    gc.collect()
    mx.synchronize()
    return mx.get_active_memory()


@pytest.mark.slow
@pytest.mark.parametrize("hybrid", [False, True])
def test_accounted_bytes_are_real_bytes_after_a_thousand_turns(hybrid: bool) -> None:
    rng = np.random.default_rng(1)
    systems = [rng.integers(0, 1000, 300) for _ in range(3)]
    before = active()
    store = PromptCache(max_bytes=6000 * TOKEN_BYTES)
    conversations = [np.concatenate([systems[i % 3], rng.integers(0, 1000, 40)]) for i in range(12)]
    for turn in range(1000):
        i = int(rng.integers(12))
        tokens = conversations[i] = np.concatenate([conversations[i], rng.integers(0, 1000, rng.integers(1, 60))])
        fetched = store.fetch("m", tokens)
        if rng.random() < 0.15:
            # Cancelled: what was computed of the prompt is stored, nothing else.
            tokens = tokens[: int(rng.integers(1, len(tokens)))]
        store.insert("m", tokens, layers(len(tokens), hybrid), snapshot=bool(rng.random() < 0.8))
        if len(tokens) > 900 or rng.random() < 0.1:
            conversations[i] = np.concatenate([systems[i % 3][: int(rng.integers(1, 301))], rng.integers(0, 1000, 40)])
        del fetched
        if turn % 250 == 249:
            check_consistent(store)
            assert active() - before == pytest.approx(store.nbytes, rel=0.02)
    stats = store.stats()
    assert stats["evicted_blocks"] > 100 and stats["hits"] > 500
    store.clear()
    assert active() == before and store.nbytes == 0


def test_what_was_evicted_is_freed_at_once() -> None:
    store = PromptCache()
    before = active()
    store.insert("m", list(range(2000)), layers(2000))
    gc.disable()
    try:
        store.trim_to(n_bytes=0)
        assert mx.get_active_memory() == before
        store.insert("m", list(range(2000)), layers(2000))
        store.drop("m")
        assert mx.get_active_memory() == before
    finally:
        gc.enable()


def test_a_stored_slice_of_a_batch_does_not_keep_the_batch_alive() -> None:
    store = PromptCache()
    before = active()
    batch = mx.ones((8, HEADS, 4096, FEATURES), mx.float16)
    row = KVCache()
    row.keys, row.values, row.offset = batch[3:4, :, 100:400], batch[4:5, :, 100:400], 300
    state = ArraysCache(1)
    state[0] = mx.zeros((64, 128))[5:6]
    store.insert("m", list(range(300)), [row, state])
    del batch, row, state
    assert active() - before == store.nbytes


def test_eight_chats_of_three_turns_store_their_shared_prefix_once() -> None:
    rng = np.random.default_rng(2)
    shared = rng.integers(0, 1_000_000, 4096)
    store = PromptCache()
    distinct = len(shared)
    for _ in range(8):
        tokens = shared
        for _ in range(3):
            tokens = np.concatenate([tokens, rng.integers(0, 1000, 200)])
            distinct += 200
            store.insert("m", tokens, layers(len(tokens)))
    assert distinct * TOKEN_BYTES <= store.nbytes <= 1.05 * distinct * TOKEN_BYTES
    assert len(store) == 8


def test_only_the_new_suffix_is_copied() -> None:
    payload = FakePayload()
    store = PromptCache(payload=payload)
    tokens = [i % 3 for i in range(1200)]
    for length in (1000, 1200):
        store.insert("m", tokens[:length], FakeCache.after(LAYOUTS["plain"], "m", tokens[:length]))
    assert payload.copied_tokens == 1200


def test_inserting_a_suffix_onto_a_long_prefix_allocates_the_suffix_only() -> None:
    store, tokens = PromptCache(), np.arange(8192 + 512)
    store.insert("m", tokens[:8192], layers(8192))
    caches = layers(len(tokens))
    mx.eval([c.state[:2] for c in caches])
    before = active()
    mx.reset_peak_memory()
    assert store.insert("m", tokens, caches).new_tokens == 512
    assert active() - before == 512 * TOKEN_BYTES
    assert mx.get_peak_memory() - before <= 1.1 * 512 * TOKEN_BYTES


def test_buffers_of_a_million_tokens_stay_under_a_tenth_of_what_metal_allows() -> None:
    # 32 layers of one shape are one group: keys and values of a block lie in one buffer.
    layout = Layout((Group("kv", EVERYTHING, 32 * 2 * 8 * 128 * 2),), has_state=False)
    tokens_per_buffer = Tree(layout).block_tokens
    assert 1_000_000 / tokens_per_buffer <= 0.1 * METAL_BUFFERS
    # Even in turns of 64 new tokens, each a buffer of its own.
    assert 0.1 * METAL_BUFFERS >= 1_000_000 / 64
    # And whatever the turns, since the number of buffers is a limit of its own.
    assert MAX_BUFFERS <= 0.1 * METAL_BUFFERS


def test_thirty_two_equal_layers_make_one_buffer_a_block() -> None:
    store = PromptCache()
    caches = [KVCache() for _ in range(32)]
    for cache in caches:
        cache.update_and_fetch(mx.ones((1, 1, 1024, 8)), mx.ones((1, 1, 1024, 8)))
    store.insert("m", list(range(1024)), caches)
    assert store.stats()["n_buffers"] == 2


def test_the_limit_on_buffers_evicts_like_the_one_on_bytes() -> None:
    store = PromptCache(payload=FakePayload(), max_buffers=10, block_tokens=4)
    for first in range(20):
        tokens = [first, *range(9)]
        store.insert("m", tokens, FakeCache.after(LAYOUTS["plain"], "m", tokens))
        assert store.stats()["n_buffers"] <= 10
    assert store.match_length("m", [19, *range(9), 0]) == 10


def test_a_returned_cache_has_room_for_the_first_decode_steps() -> None:
    store = PromptCache()
    store.insert("m", list(range(300)), layers(300))
    caches = store.fetch("m", list(range(301)), room=100).caches or []
    capacity = caches[0].keys.shape[2]
    assert capacity >= 400
    for _ in range(100):
        caches[0].update_and_fetch(mx.ones((1, HEADS, 1, FEATURES)), mx.ones((1, HEADS, 1, FEATURES)))
    assert caches[0].keys.shape[2] == capacity


def test_a_block_knows_its_size() -> None:
    store = PromptCache()
    store.insert("m", list(range(100)), layers(100))
    (block,) = next(iter(next(iter(store._locked.index.trees())).nodes())).spans[0]
    assert isinstance(block, Block) and block.nbytes == block.data.nbytes == 100 * TOKEN_BYTES
