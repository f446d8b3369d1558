"""A batch of codes holds, bit for bit, what each of its rows would hold by itself."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache, QuantizedKVCache

from backend.engine.batching.assembly import SCORE_COPIES
from backend.engine.batching.row_caches import copied, keep_rows, nbytes, row_caches, separable
from backend.engine.loading.score_bytes import score_bytes
from backend.engine.quantized.batch_cache import BatchQuantizedKVCache, merged
from backend.engine.quantized.conversion import to_codes
from backend.engine.quantized.kv_format import KVFormat

HEADS, WIDTH, GROUP, BITS = 2, 64, 32, 4


def tokens(rows: int, count: int, seed: int) -> mx.array:
    return mx.random.normal((rows, HEADS, count, WIDTH), key=mx.random.key(seed))


def row(length: int, seed: int) -> QuantizedKVCache:
    cache = QuantizedKVCache(GROUP, BITS)
    if length:
        cache.update_and_fetch(tokens(1, length, seed), tokens(1, length, seed + 1))
    return cache


def held(cache: Any) -> list[Any]:
    """What the row's queries see, bit for bit."""
    if not cache.offset:
        return []
    seen = [np.array(array[..., : cache.offset, :]) for array in (*cache.keys, *cache.values)]
    return [(array.shape, array.tobytes()) for array in seen]


def step(batch: Any, rows: list[Any], seed: int) -> None:
    """A token for each, to the batch and to the rows alone."""
    keys, values = tokens(len(rows), 1, seed), tokens(len(rows), 1, seed + 1)
    batch.update_and_fetch(keys, values)
    for index, alone in enumerate(rows):
        alone.update_and_fetch(keys[index : index + 1], values[index : index + 1])


@pytest.mark.parametrize("seed", range(12))
def test_rows_that_join_leave_and_are_taken_out_hold_what_they_would_alone(seed: int) -> None:
    rng = random.Random(seed)
    rows = [row(rng.choice((0, 1, 3, 255, 256, 257)), 10 * place) for place in range(3)]
    batch = merged([copied(cache) for cache in rows])
    for turn in range(12):
        match rng.choice(("step", "step", "join", "filter", "keep")):
            case "join":
                new = [row(rng.choice((0, 2, 260)), 1000 + 7 * turn + place) for place in range(rng.randrange(1, 3))]
                batch.extend(merged([copied(cache) for cache in new]))
                rows += new
            case "filter" if len(rows) > 1:
                kept = sorted(rng.sample(range(len(rows)), len(rows) - 1))
                batch.filter(kept)
                rows = [rows[index] for index in kept]
            case "keep" if len(rows) > 1:
                kept = sorted(rng.sample(range(len(rows)), len(rows) - 1))
                keep_rows([batch], kept, [cache.offset for cache in rows])
                rows = [rows[index] for index in kept]
            case _:
                step(batch, rows, 5000 + 10 * turn)
        lengths = [cache.offset for cache in rows]
        assert batch.size() == max(lengths)
        assert batch.offset.tolist() == lengths
        for index, alone in enumerate(rows):
            assert held(batch.extract(index)) == held(alone)
            view = row_caches([batch], index, lengths)[0]
            assert (type(view), view.offset, held(view)) == (QuantizedKVCache, alone.offset, held(alone))


def test_padding_is_masked_and_counted() -> None:
    batch = merged([row(3, 0), row(1, 5)])
    assert batch.make_mask(1)[:, 0, 0].tolist() == [[True] * 4, [False, False, True, True]]
    assert batch.nbytes == 2 * nbytes([row(3, 0)]) * 3 // 256
    assert separable([batch])


def test_a_batch_of_rows_without_a_token_takes_its_first_ones() -> None:
    rows = [row(0, 0), row(0, 1)]
    assert nbytes(list(rows)) == 0
    batch = merged(rows)
    assert (batch.nbytes, batch.empty(), held(batch.extract(1))) == (0, True, [])
    batch.extend(merged([row(0, 2)]))
    rows.append(row(0, 2))
    step(batch, rows, 9)
    assert [held(batch.extract(index)) for index in range(3)] == [held(alone) for alone in rows]


def test_rows_of_codes_and_rows_of_numbers_are_not_merged() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        merged([KVCache(), QuantizedKVCache(GROUP, BITS)])
    with pytest.raises(ValueError, match="cannot be merged"):
        merged([QuantizedKVCache(GROUP, BITS), KVCache()])


def test_lists_of_layers_are_merged_layer_by_layer() -> None:
    batch = merged([CacheList(row(2, 0), KVCache()), CacheList(row(1, 4), KVCache())])
    assert [type(cache) for cache in batch.caches] == [BatchQuantizedKVCache, BatchKVCache]
    assert held(batch.caches[0].extract(1)) == held(row(1, 4))


def test_numbers_become_the_codes_that_were_written_as_they_came() -> None:
    plain, codes = KVCache(), row(300, 3)
    plain.update_and_fetch(tokens(1, 300, 3), tokens(1, 300, 4))
    (made,) = to_codes([plain], KVFormat(BITS, GROUP))
    assert held(made) == held(codes)


@pytest.mark.parametrize("masked", [False, True])
def test_scores_of_a_chunk_take_what_is_reserved_for_them(masked: bool) -> None:
    heads, chunk, keys = 16, 128, 1024
    queries = mx.random.normal((1, heads, chunk, WIDTH))
    codes = row(keys, 0)
    mask: Any = mx.ones((1, 1, chunk, keys), dtype=mx.bool_) if masked else "causal"
    mx.eval(queries, codes.state)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(scaled_dot_product_attention(queries, *codes.keys_and_values(), codes, 1.0, mask))
    scores = score_bytes({"num_attention_heads": heads}, queries.dtype.size) * chunk * keys
    assert scores <= mx.get_peak_memory() - before <= SCORE_COPIES * scores


def test_the_share_of_the_bytes_is_that_of_the_arrays() -> None:
    for bits in (4, 8):
        for group in (32, 64):
            half = tokens(1, 256, 0).astype(mx.float16)
            cache = QuantizedKVCache(group, bits)
            cache.update_and_fetch(half, half)
            assert KVFormat(bits, group).share() * 2 * half.nbytes == cache.nbytes
