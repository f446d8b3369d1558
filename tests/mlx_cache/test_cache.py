"""The calls: those of mlx-lm and LocalAI as they make them, reasons, limits, pins, figures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlx_cache import LeafLru, PromptCache, Reason, Refusal, ThreadSafeLRUPromptCache
from mlx_cache.cache import DEFAULT_MAX_BYTES, UNLIMITED
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_consistent, check_content


def store(**options: Any) -> PromptCache:
    """A cache over the fake payload, evicting in plain LRU order."""
    return PromptCache(**({"payload": FakePayload(), "policy": LeafLru(), "block_tokens": 4} | options))


def filled(tokens: list[int], layout: str = "plain", space: str = "m") -> list[Any]:
    """A prompt cache as a model would have left it."""
    return FakeCache.after(LAYOUTS[layout], space, tokens)


def put(
    cache: PromptCache, *sequences: list[int], layout: str = "plain", space: str = "m", apart: bool = False
) -> None:
    for tokens in sequences:
        assert cache.insert(space, tokens, filled(tokens, layout, space), apart=apart).refusal is None


# The shapes of calls


def test_the_calls_of_mlx_lms_server_work_as_they_stand() -> None:
    cache = store(max_size=10)
    key, prompt = ("model", None, None), [1, 2, 3, 4, 5]
    kv, rest = cache.fetch_nearest_cache(key, prompt)
    assert kv is None and rest == prompt
    cache.insert_cache(key, prompt[:3], filled(prompt[:3]), cache_type="system")
    cache.insert_cache(key, [*prompt, 6], filled([*prompt, 6]), cache_type="assistant")
    cache.insert_cache(key, [9, 9], filled([9, 9]))
    kv, rest = cache.fetch_nearest_cache(key, [1, 2, 3, 7])
    assert kv is not None and rest == [7]
    cache.trim_to(n_bytes=1 << 40)
    by_type = cache.stats_by_type()
    assert list(by_type) == ["assistant", "user", "system"]
    assert by_type["system"] == {"n_sequences": 0, "n_bytes": 9}
    assert by_type["assistant"] == {"n_sequences": 2, "n_bytes": 3 * 5}
    assert sum(entry["n_bytes"] for entry in by_type.values()) == cache.nbytes
    assert len(cache) == 2
    cache.trim_to(n_sequences=1)
    assert len(cache) == 1


def test_the_calls_of_localais_backend_work_as_they_stand() -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("what can be cut is known by layer")

    cache = PromptCache(max_size=10, can_trim_fn=never, trim_fn=never, payload=FakePayload())
    kv, rest = cache.fetch_nearest_cache("model", [1, 2, 3])
    assert kv is None and rest == [1, 2, 3]
    cache.insert_cache("model", [1, 2, 3, 4, 5], filled([1, 2, 3, 4, 5], space="model"))
    # A longer stored sequence serves a shorter prompt, twice: a hit takes nothing away.
    for _ in range(2):
        kv, rest = cache.fetch_nearest_cache("model", [1, 2, 9])
        assert kv is not None and rest == [9]
        check_content(kv, "model", [1, 2])
    cache.clear()
    assert len(cache) == 0
    assert PromptCache(10).max_size == 10


@pytest.mark.parametrize("prompt", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3], np.int32)])
def test_an_exact_repeat_leaves_the_last_token_to_run(prompt: Any) -> None:
    cache = store()
    put(cache, [1, 2, 3])
    kv, rest = cache.fetch_nearest_cache("m", prompt)
    assert list(rest) == [3] and type(rest) is type(prompt)
    check_content(kv or [], "m", [1, 2])


def test_an_empty_prompt_is_a_miss_and_an_empty_cache_is_not_stored() -> None:
    cache = store()
    assert cache.fetch_nearest_cache("m", []) == (None, [])
    assert cache.insert("m", [], filled([])).refusal is Refusal.EMPTY
    assert cache.insert("m", [1], filled([])).refusal is Refusal.EMPTY


def test_importing_the_library_imports_no_mlx() -> None:
    code = "import sys, mlx_cache; print(sorted(m for m in sys.modules if m.startswith(('mlx.', 'mlx_lm', 'backend'))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


# Reasons


def test_every_short_hit_has_its_reason() -> None:
    cache = store()
    assert cache.fetch("m", [1, 2]).reason is Reason.EMPTY
    put(cache, [1, 2, 3, 4], [1, 2, 5])
    put(cache, [7, 7], space="n")
    for tokens, length, reason in (
        ([1, 2, 3, 4], 3, Reason.FULL),
        ([1, 2, 3, 4, 6, 6], 4, Reason.EXTENDED),
        ([1, 2, 6, 6], 2, Reason.DIVERGED),
        ([1, 2, 3, 6, 6], 3, Reason.DIVERGED),
        ([6, 6], 0, Reason.DIVERGED),
        ([7, 7, 1], 0, Reason.OTHER_NAMESPACE),
    ):
        fetched = cache.fetch("m", tokens)
        assert (fetched.length, fetched.reason, fetched.agreed >= length) == (length, reason, True), tokens
    assert str(cache.fetch("m", [1, 2, 6, 6])) == "diverged at 2"
    reasons = cache.stats()["reasons"]
    assert reasons["diverged"] == 4 and reasons["other-namespace"] == 1 and reasons["empty"] == 1


def test_a_miss_says_that_what_came_next_was_evicted() -> None:
    cache = store()
    put(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9], [5, 5])
    cache.fetch("m", [5, 5, 1])
    cache.trim_to(n_bytes=cache.nbytes - 3)
    fetched = cache.fetch("m", [1, 2, 3, 4, 5, 6, 7, 8, 9, 1])
    assert (fetched.length, fetched.reason) == (8, Reason.EVICTED)
    cache.trim_to(n_bytes=0)
    assert cache.fetch("m", [5, 5, 1]).reason is Reason.EVICTED
    assert cache.fetch("m", [4, 4, 1]).reason is Reason.EMPTY


def test_a_hybrid_says_that_it_had_no_snapshot_where_the_prompts_part() -> None:
    cache = store()
    put(cache, [1, 2, 3], [1, 2, 3, 4, 5, 6], layout="hybrid")
    fetched = cache.fetch("m", [1, 2, 3, 4, 5, 9])
    assert (fetched.length, fetched.agreed, fetched.reason) == (3, 5, Reason.NO_SNAPSHOT)
    check_content(fetched.caches or [], "m", [1, 2, 3])


# Limits


def test_the_longest_usable_prefix_wins_over_a_stored_end_before_it() -> None:
    cache = store()
    put(cache, [1, 2], [1, 2, 3, 4, 5, 6])
    assert cache.fetch("m", [1, 2, 3, 4, 9]).length == 4


def test_a_fetch_counts_as_use() -> None:
    cache = store(max_size=2)
    put(cache, [1, 1], [2, 2])
    cache.fetch("m", [1, 1, 1])
    put(cache, [3, 3])
    assert cache.match_length("m", [1, 1, 1]) == 2 and cache.match_length("m", [2, 2, 2]) == 0


def test_looking_up_a_length_counts_as_nothing() -> None:
    cache = store(max_size=2)
    put(cache, [1, 1], [2, 2])
    before = cache.stats()
    cache.match_length("m", [1, 1, 1])
    assert cache.stats() == before
    put(cache, [3, 3])
    assert cache.match_length("m", [1, 1, 1]) == 0


def test_a_longer_turn_of_a_conversation_is_no_sequence_of_its_own() -> None:
    cache = store(max_size=2)
    put(cache, [1, 1], [1, 1, 2], [1, 1, 2, 3], [5])
    assert len(cache) == 2
    assert cache.match_length("m", [1, 1, 2, 3, 0]) == 4
    # A third sequence takes the place of a whole conversation.
    put(cache, [6], [7])
    assert len(cache) == 2 and cache.match_length("m", [1, 1, 2]) == 0


def test_leaves_go_before_what_they_hang_on_and_block_by_block() -> None:
    cache = store()
    put(cache, [1] * 4 + [2] * 8, [1] * 4 + [3] * 8)
    sizes = []
    while cache.nbytes:
        cache.trim_to(n_bytes=cache.nbytes - 1)
        check_consistent(cache)
        sizes.append(cache.nbytes // 3)
    assert sizes == [16, 12, 8, 4, 0]


def test_a_size_or_a_budget_of_nothing_turns_the_cache_off() -> None:
    for cache in (store(max_size=0), store(max_bytes=0)):
        assert cache.insert("m", [1, 2], filled([1, 2])).refusal is Refusal.OFF
        assert cache.fetch("m", [1, 2]).caches is None and cache.nbytes == 0


def test_a_sequence_larger_than_the_budget_is_stored_as_far_as_it_fits() -> None:
    cache = store(max_bytes=30)
    assert cache.insert("m", list(range(100)), filled(list(range(100)))).length == 10
    assert cache.insert("h", list(range(100)), filled(list(range(100)), "hybrid", "h")).refusal is Refusal.NO_ROOM
    assert cache.nbytes <= 30


def test_a_smaller_budget_evicts_at_once() -> None:
    cache = store(max_bytes=100)
    put(cache, [1] * 8, [2] * 8)
    cache.max_bytes = 30
    assert cache.nbytes <= 30 and cache.max_bytes == 30
    check_consistent(cache)


def test_inner_snapshots_thin_out_before_the_sequence_goes() -> None:
    cache = store()
    tokens = list(range(20))
    for length in (4, 8, 12, 16, 20):
        put(cache, tokens[:length], layout="hybrid")
    cache.trim_to(n_bytes=cache.nbytes - 1)
    stats = cache.stats()
    assert stats["evicted_states"] == 1 and stats["evicted_blocks"] == 0
    assert cache.match_length("m", [*tokens, 0]) == 20


def test_a_window_that_later_turns_lean_on_is_not_thinned_out() -> None:
    cache = store()
    put(cache, [1, 2, 3, 4], [1, 2, 3, 4, 5], layout="window")
    cache.trim_to(n_bytes=cache.nbytes - 1)
    check_consistent(cache)
    assert cache.match_length("m", [1, 2, 3, 4, 5, 0]) in (0, 4)


def test_a_hit_is_not_lost_when_its_edge_is_split_under_it() -> None:
    payload = FakePayload()
    cache = store(payload=payload)
    put(cache, [1, 2, 3, 4, 5, 6])

    def split() -> None:
        payload.during_copy = lambda: None
        put(cache, [1, 2, 3, 9])
        cache.trim_to(n_bytes=0)

    payload.during_copy = split
    fetched = cache.fetch("m", [1, 2, 3, 4, 5, 0])
    check_content(fetched.caches or [], "m", [1, 2, 3, 4, 5])
    check_consistent(cache)


def test_a_window_brought_by_another_thread_meanwhile_is_not_stored_twice() -> None:
    payload = FakePayload()
    cache = store(payload=payload)
    cache.insert("m", [1, 2], filled([1, 2], "window"), snapshot=False)

    def same() -> None:
        payload.during_copy = lambda: None
        put(cache, [1, 2], layout="window")

    payload.during_copy = same
    put(cache, [1, 2], layout="window")
    check_consistent(cache)
    assert cache.nbytes == 2 * 3 + 2 * 2


def test_nothing_is_stored_for_a_model_that_was_dropped_meanwhile() -> None:
    payload = FakePayload()
    cache = store(payload=payload)
    payload.during_copy = lambda: cache.drop("m")
    assert cache.insert("m", [1, 2, 3], filled([1, 2, 3])).refusal is Refusal.CLEARED
    assert cache.nbytes == len(cache) == 0
    assert cache.fetch("m", [1, 2, 3]).caches is None


def test_caches_of_two_layouts_under_one_key_do_not_mix() -> None:
    cache = store()
    put(cache, [1, 2, 3], layout="plain")
    put(cache, [1, 2, 3, 4], layout="hybrid")
    check_content(cache.fetch("m", [1, 2, 9]).caches or [], "m", [1, 2])
    check_content(cache.fetch("m", [1, 2, 3, 4, 9]).caches or [], "m", [1, 2, 3, 4])


# Pins


def test_a_pinned_prefix_stays_while_all_else_goes() -> None:
    cache = store(max_bytes=60)
    put(cache, [1, 2, 3, 4, 5, 6])
    assert cache.pin("system", "m", [1, 2, 3, 4]) == 4
    for first in range(10, 30):
        put(cache, [first] * 9)
        assert cache.match_length("m", [1, 2, 3, 4, 0]) == 4
    assert cache.stats()["pins"] == {"system": 4}
    assert cache.unpin("system") and not cache.unpin("system")
    put(cache, *([first] * 9 for first in range(30, 40)))
    assert cache.match_length("m", [1, 2, 3, 4, 0]) == 0


@pytest.mark.parametrize(("layout", "over"), [("plain", False), ("plain", True), ("window", False)])
def test_a_pin_of_what_was_stored_apart_holds_nothing_behind_it(layout: str, over: bool) -> None:
    cache = store(block_tokens=64)
    put(cache, [1, 2, 3, 4, 5, 6], layout=layout)
    cache.pin("system", "m", [1, 2])
    if over:
        cache.max_bytes = 1
        assert cache.nbytes > 1
    put(cache, [1, 2], layout=layout, apart=True)
    assert cache.pinned_length("system") == 2
    cache.max_bytes = 1
    assert cache.nbytes == sum(2 * group.bytes_per_token for group in LAYOUTS[layout].groups)
    check_content(cache.fetch("m", [1, 2, 9]).caches or [], "m", [1, 2])
    check_consistent(cache)


def test_what_nobody_has_asked_for_is_in_no_figure_and_no_order() -> None:
    cache = store(max_size=2, policy=LeafLru())
    put(cache, [1, 2], [3, 4])
    before = cache.stats()
    assert cache.fetch("m", [1, 2, 9], counted=False).length == 2
    assert cache.stats() == before
    put(cache, [5, 6])
    assert cache.match_length("m", [1, 2, 9]) == 0


def test_a_prefix_can_be_pinned_before_it_is_stored() -> None:
    cache = store()
    assert cache.pin("system", "m", [1, 2, 3, 4]) == 0
    put(cache, [1, 2], [1, 2, 3, 4, 5])
    cache.trim_to(n_bytes=0)
    assert cache.match_length("m", [1, 2, 3, 4, 0]) == 4


@pytest.mark.parametrize("size", [0, 1025])
def test_blocks_are_at_most_1024_tokens(size: int) -> None:
    with pytest.raises(ValueError, match="block_tokens"):
        PromptCache(block_tokens=size)


def test_without_a_limit_given_there_is_one_in_bytes_and_none_in_sequences() -> None:
    for moved in (PromptCache, ThreadSafeLRUPromptCache):
        assert moved().max_bytes == moved(max_size=10).max_bytes == DEFAULT_MAX_BYTES
    assert PromptCache(max_bytes=None).max_bytes == UNLIMITED
    cache = store()
    put(cache, *([number, number, number] for number in range(200)))
    assert len(cache) == 200
