"""Every cache family of mlx-lm, with random weights: what is restored equals what was computed, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from mlx_cache import PromptCache, Reason, Refusal
from mlx_cache.layers import ByToken, flatten, kind_of, read_state, read_tokens
from mlx_cache.payload import MlxPayload
from tests.mlx_cache.families import ANYWHERE, FAMILIES, WINDOW, model, prompt, run, run_in_chunks
from tests.models import QUICK_FAMILIES

CHUNK = 20
LENGTH = 6 * CHUNK
EACH = [pytest.param(name, marks=() if name in QUICK_FAMILIES else pytest.mark.slow) for name in FAMILIES]
BATCHED = [each for each in EACH if each.values != ("llama4",)]


def contents(caches: list[Any], length: int) -> Iterator[tuple[str, mx.array]]:
    """What each layer holds, oldest first, as far as a model at `length` tokens can use it."""
    for path, cache in flatten(caches):
        kind = kind_of(cache)
        name = f"layer {path} {type(cache).__name__}"
        if isinstance(kind, ByToken):
            held = read_tokens(cache, kind)
            assert held.offset == length, name
            first = max(0, length - kind.reach)
            yield from ((name, array[..., first - held.first : length - held.first, :]) for array in held.arrays)
        else:
            yield from ((name, array) for array in read_state(cache, kind).arrays if array is not None)


def assert_equal(got: list[Any], wanted: list[Any], length: int) -> None:
    pairs = list(zip(contents(got, length), contents(wanted, length), strict=True))
    assert pairs
    for (name, a), (_, b) in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype, name
        assert mx.array_equal(a, b), name


@pytest.mark.parametrize("family", EACH)
def test_what_is_restored_at_a_checkpoint_equals_a_cold_run_bit_for_bit(family: str) -> None:
    made, tokens, store = model(family), prompt(LENGTH), PromptCache()
    caches = make_prompt_cache(made)
    run_in_chunks(made, tokens, caches, CHUNK, lambda n: store.insert("m", tokens[:n], caches))
    for length in range(CHUNK, LENGTH, CHUNK):
        cold = make_prompt_cache(made)
        run_in_chunks(made, tokens[:length], cold, CHUNK)
        asked = np.append(tokens[:length], np.int32(0))
        fetched = store.fetch("m", asked)
        assert fetched.length == length and fetched.caches is not None
        assert_equal(fetched.caches, cold, length)
        # Equal chunk boundaries from here on: with the reference BLAS the logits are equal too, not only close.
        rest = tokens[length:]
        a, b = run_in_chunks(made, rest, fetched.caches, CHUNK), run_in_chunks(made, rest, cold, CHUNK)
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("family", EACH)
def test_decoding_on_from_a_restored_cache_never_changes_what_is_stored(family: str) -> None:
    made, tokens, store = model(family), prompt(LENGTH), PromptCache()
    caches = make_prompt_cache(made)
    run(made, tokens, caches)
    store.insert("m", tokens, caches)
    asked = np.append(tokens, np.int32(3))
    answers = []
    for _ in range(2):
        fetched = store.fetch("m", asked).caches
        assert fetched is not None
        assert_equal(fetched, caches, LENGTH)
        logits = [run(made, np.array([token], np.int32), fetched)[-1] for token in range(1, WINDOW + 5)]
        for _, cache in flatten(fetched):
            for name in ("keys", "values"):
                array = getattr(cache, name, None)
                if isinstance(array, mx.array):
                    array[...] = mx.zeros_like(array)
        answers.append(mx.stack(logits))
    assert mx.array_equal(*answers)


@pytest.mark.parametrize("family", ANYWHERE)
def test_plain_families_hit_wherever_a_prompt_turns_off(family: str) -> None:
    made, tokens, store = model(family), prompt(LENGTH), PromptCache()
    caches = make_prompt_cache(made)
    run(made, tokens, caches)
    store.insert("m", tokens, caches)
    for length in (1, 2, 37, LENGTH - 1):
        fetched = store.fetch("m", np.append(tokens[:length], np.int32(0)))
        assert fetched.length == length and fetched.caches is not None
        for (_, a), (_, b) in zip(contents(fetched.caches, length), contents(caches, LENGTH), strict=True):
            assert mx.array_equal(a, b[..., :length, :])


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss", "llama4", "recurrent_gemma", "baichuan_m1"])
def test_windows_are_restored_behind_the_wrap_where_another_prompt_turned_off(family: str) -> None:
    made, store = model(family), PromptCache()
    shared, mine, theirs = prompt(3 * WINDOW, 1), prompt(CHUNK, 2), prompt(CHUNK, 3)
    for tail in (mine, theirs):
        caches = make_prompt_cache(made)
        run(made, shared, caches)
        run(made, tail, caches)
        tokens = np.concatenate([shared, tail])
        assert store.insert("m", tokens, caches).refusal is None
        fetched = store.fetch("m", np.append(tokens, np.int32(1)))
        assert fetched.length == len(tokens) and fetched.caches is not None
        assert_equal(fetched.caches, caches, len(tokens))
    # The second insert brought what the first edge lacked where they part, so the first is still whole.
    again = store.fetch("m", np.concatenate([shared, mine, prompt(1)]))
    assert again.length == len(shared) + CHUNK


@pytest.mark.parametrize("family", BATCHED)
def test_what_a_batch_hands_out_can_be_stored_and_restored(family: str) -> None:
    made, store = model(family), PromptCache()
    prompts = [prompt(n, n).tolist() for n in (50, 90, 23)]
    generator = BatchGenerator(made, completion_batch_size=4, prefill_batch_size=4, prefill_step_size=16)
    try:
        generator.insert(prompts, max_tokens=[5, 9, 7])
        stored: list[tuple[list[int], list[Any]]] = []
        while len(stored) < len(prompts):
            _, responses = generator.next()
            for response in responses:
                if response.finish_reason is not None:
                    tokens, caches = list(response.all_tokens), response.prompt_cache
                    assert store.insert("m", tokens, caches).length == len(tokens)
                    stored.append((tokens, caches))
    finally:
        generator.close()
    for tokens, caches in stored:
        fetched = store.fetch("m", [*tokens, 1])
        assert fetched.length == len(tokens) and fetched.caches is not None
        assert_equal(fetched.caches, caches, len(tokens))


@pytest.mark.parametrize("family", BATCHED)
def test_a_batch_goes_on_from_restored_rows(family: str) -> None:
    made, tokens, store = model(family), prompt(60), PromptCache()
    caches = make_prompt_cache(made)
    run(made, tokens, caches)
    store.insert("m", tokens, caches)
    alone = [int(t) for t in _greedy(made, None, [*tokens.tolist(), 5])]
    fetched = store.fetch("m", [*tokens.tolist(), 5])
    assert fetched.length == 60
    assert _greedy(made, fetched.caches, [5]) == alone


def _greedy(made: Any, caches: list[Any] | None, rest: list[int]) -> list[int]:
    generator = BatchGenerator(made, prefill_step_size=64)
    out: list[int] = []
    try:
        generator.insert([rest], max_tokens=[6], caches=[caches] if caches is not None else None)
        while len(out) < 6:
            out += [response.token for response in generator.next()[1]]
    finally:
        generator.close()
    return out


def test_a_rotating_cache_fresh_from_a_long_chunk_keeps_only_its_window() -> None:
    made, tokens, store = model("gpt_oss"), prompt(4 * WINDOW), PromptCache()
    caches = make_prompt_cache(made)
    run(made, tokens[:5], caches)
    run(made, tokens[5:], caches)
    ring = next(c for c in caches if type(c) is RotatingKVCache)
    assert ring.keys.shape[2] > WINDOW
    store.insert("m", tokens, caches)
    fetched = store.fetch("m", np.append(tokens, np.int32(0))).caches
    assert fetched is not None
    assert next(c for c in fetched if type(c) is RotatingKVCache).keys.shape[2] == WINDOW
    assert_equal(fetched, caches, len(tokens))


@pytest.mark.parametrize("length", [20, WINDOW, 100])
def test_max_kv_size_with_kept_tokens_is_restored_before_and_after_the_wrap(length: int) -> None:
    made, tokens, store = model("llama"), prompt(length), PromptCache()
    caches = make_prompt_cache(made, max_kv_size=WINDOW)
    run_in_chunks(made, tokens, caches, 10)
    for token in range(1, 4):
        run(made, np.array([token], np.int32), caches)
    tokens = np.concatenate([tokens, np.arange(1, 4, dtype=np.int32)])
    store.insert("m", tokens, caches)
    fetched = store.fetch("m", np.append(tokens, np.int32(0)))
    assert fetched.length == len(tokens) and fetched.caches is not None
    assert_equal(fetched.caches, caches, len(tokens))
    a = [run(made, np.array([t], np.int32), fetched.caches) for t in (7, 8, 9)]
    b = [run(made, np.array([t], np.int32), caches) for t in (7, 8, 9)]
    if length == 20:
        assert all(mx.array_equal(x, y) for x, y in zip(a, b, strict=True))
    # The restored ring begins at its oldest entry, so attention adds the same terms in another order.
    assert all(mx.allclose(x, y, atol=1e-4) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_cache_is_restored_bit_for_bit(bits: int) -> None:
    mx.random.seed(3)
    store, n = PromptCache(), 300
    caches = [KVCache().to_quantized(group_size=32, bits=bits) for _ in range(2)]
    for cache in caches:
        for part in (200, 100):
            cache.update_and_fetch(mx.random.normal((1, 2, part, 64)), mx.random.normal((1, 2, part, 32)))
    store.insert("m", prompt(n), caches)
    for length in (n, 150):
        fetched = store.fetch("m", np.append(prompt(n)[:length], np.int32(0))).caches
        assert fetched is not None and all(type(c) is QuantizedKVCache for c in fetched)
        for got, wanted in zip(fetched, caches, strict=True):
            assert (got.offset, got.bits, got.group_size) == (length, bits, 32)
            for a, b in zip((*got.keys, *got.values), (*wanted.keys, *wanted.values), strict=True):
                assert mx.array_equal(a[..., :length, :], b[..., :length, :])
            got.update_and_fetch(mx.ones((1, 2, 1, 64)), mx.ones((1, 2, 1, 32)))


def test_the_other_classes_of_the_allow_list_come_back_as_they_went_in() -> None:
    mx.random.seed(4)
    kv = lambda n: (mx.random.normal((1, 2, n, 8)), mx.random.normal((1, 2, n, 4)))  # noqa: E731
    chunked, plain, joined, state = ChunkedKVCache(16), KVCache(), ConcatenateKVCache(), ArraysCache(3)
    for n in (30, 10):
        chunked.maybe_trim_front()
        for cache in (chunked, plain, joined):
            cache.update_and_fetch(*kv(n))
    state[0] = mx.random.normal((1, 3))
    state[2] = mx.arange(4)[None]
    caches = [CacheList(chunked, state), joined, CacheList(CacheList(plain))]
    store = PromptCache()
    assert store.insert("m", prompt(40), caches).new_tokens == 40
    fetched = store.fetch("m", np.append(prompt(40), np.int32(0))).caches
    assert fetched is not None
    assert [type(c) for _, c in flatten(fetched)] == [ChunkedKVCache, ArraysCache, ConcatenateKVCache, KVCache]
    assert_equal(fetched, caches, 40)
    assert fetched[0][1][1] is None
    assert fetched[0][0].start_position == 24


class Unknown(KVCache):
    """A subclass may keep more than its parent."""


def test_an_unknown_layer_class_is_never_stored_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = Unknown()
    cache.update_and_fetch(mx.zeros((1, 1, 4, 8)), mx.zeros((1, 1, 4, 8)))
    store = PromptCache()
    for _ in range(2):
        assert store.insert("m", [1, 2, 3, 4], [CacheList(cache)]).refusal is Refusal.UNSUPPORTED_LAYER
    assert caplog.text.count("Unknown") == 1
    assert store.stats()["unsupported"] == {"Unknown": 2}
    assert store.fetch("m", [1, 2, 3]).reason is Reason.UNSUPPORTED_LAYER


@pytest.mark.parametrize("damage", ["doubled", "uneven", "batch", "empty layer", "half prefilled batch"])
def test_a_cache_that_does_not_fit_its_key_is_refused(damage: str) -> None:
    def layer(n: int, rows: int = 1) -> KVCache:
        cache = KVCache()
        cache.update_and_fetch(mx.zeros((rows, 1, n, 8)), mx.zeros((rows, 1, n, 8)))
        return cache

    padded = ArraysCache(1, left_padding=[2])
    padded[0] = mx.zeros((1, 2))
    caches = {
        "doubled": [layer(8)],
        "uneven": [layer(4), layer(3)],
        "batch": [layer(4, rows=2)],
        "empty layer": [layer(4), KVCache()],
        "half prefilled batch": [padded],
    }[damage]
    store = PromptCache()
    assert store.insert("m", [1, 2, 3, 4], caches).refusal is Refusal.INCONSISTENT
    assert store.nbytes == len(store) == 0


def test_a_key_longer_than_the_cache_is_stored_as_far_as_the_cache_goes() -> None:
    cache = KVCache()
    cache.update_and_fetch(mx.ones((1, 1, 3, 8)), mx.ones((1, 1, 3, 8)))
    store = PromptCache()
    assert store.insert("m", [1, 2, 3, 4, 5], [cache]).length == 3
    assert store.fetch("m", [1, 2, 3, 4, 5]).length == 3


class Strange:
    """A layer cache of no class that mlx-lm has in its cache module."""

    def __init__(self) -> None:
        self.offset = 0
        self.parts: dict[str, list[mx.array | None]] = {"sums": [None, mx.zeros((1, 0, 4))]}


def test_an_unknown_layer_is_refused_by_name_and_kept_whole_where_the_caller_has_tried_it() -> None:
    layer = Strange()
    layer.offset, layer.parts["sums"][0] = 3, mx.arange(8).reshape(1, 2, 4)
    tokens = [1, 2, 3]
    assert PromptCache().insert("m", tokens, [layer]).refusal is Refusal.UNSUPPORTED_LAYER
    store = PromptCache(payload=MlxPayload([Strange]))
    assert store.insert("m", tokens, [layer]).length == 3
    layer.parts["sums"][0] = None
    for _ in range(2):
        (restored,) = store.fetch("m", [*tokens, 4]).caches or ()
        assert (type(restored), restored.offset) == (Strange, 3)
        assert mx.array_equal(restored.parts["sums"][0], mx.arange(8).reshape(1, 2, 4))
        assert restored.parts["sums"][1].shape == (1, 0, 4)
        restored.parts["sums"].clear()
    assert store.nbytes == 32
    # Somewhere else than where it was stored there is nothing to restore.
    assert store.fetch("m", [1, 2, 9]).caches is None
