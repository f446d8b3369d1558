"""A batch of rows holds, bit for bit, what each of its rows would hold by itself, wherever the others are."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from backend.engine.batching.device_share import SCORE_COPIES
from backend.engine.kv.merging import alone, merged
from backend.engine.kv.ragged import RaggedKVCache, RaggedQuantizedKVCache
from backend.engine.kv.row_caches import copied, nbytes, row_cache, separable
from backend.engine.kv.spare import beyond
from backend.engine.kv.window import RaggedWindowKVCache
from backend.engine.loading.score_bytes import score_bytes
from backend.engine.quantized.conversion import to_codes
from backend.engine.quantized.kv_format import KVFormat

HEADS, WIDTH, GROUP, BITS, WINDOW = 2, 64, 32, 4, 24
KINDS = {
    "numbers": KVCache,
    "codes": lambda: QuantizedKVCache(GROUP, BITS),
    "window": lambda: RotatingKVCache(WINDOW),
}


def tokens(rows: int, count: int, seed: int) -> mx.array:
    return mx.random.normal((rows, HEADS, count, WIDTH), key=mx.random.key(seed))


class Alone:
    """A row by itself: everything that it was ever given."""

    def __init__(self, kind: str, length: int, seed: int) -> None:
        self.kind = kind
        self.keys, self.values = tokens(1, length, seed), tokens(1, length, seed + 1)

    def add(self, keys: mx.array, values: mx.array) -> None:
        self.keys, self.values = (
            mx.concatenate([self.keys, keys], axis=2),
            mx.concatenate([self.values, values], axis=2),
        )

    def back(self, count: int) -> None:
        end = self.length - count
        self.keys, self.values = self.keys[:, :, :end], self.values[:, :, :end]

    @property
    def length(self) -> int:
        return self.keys.shape[2]

    def cache(self) -> Any:
        """As mlx-lm's prefill leaves it."""
        made: Any = KINDS[self.kind]()
        if self.length:
            made.update_and_fetch(self.keys, self.values)
        return made

    def held(self) -> list[Any]:
        return held(self.cache(), self.kind)


def held(cache: Any, kind: str) -> list[Any]:
    """What the row's queries see, bit for bit."""
    if not cache.offset:
        return []
    arrays = [*cache.keys, *cache.values] if kind == "codes" else [cache.keys, cache.values]
    if kind == "window":
        last = min(cache.offset, WINDOW)
        seen = [np.array(cache._temporal_order(array)[..., -last:, :]) for array in arrays]
    else:
        seen = [np.array(array[..., : cache.offset, :]) for array in arrays]
    return [(array.shape, array.tobytes()) for array in seen]


def attended(batch: Any, rows: list[Alone], count: int, seed: int) -> None:
    """The same new tokens to the batch and to the rows alone: queries see the same."""
    keys, values = tokens(len(rows), count, seed), tokens(len(rows), count, seed + 1)
    queries = tokens(len(rows), count, seed + 2)
    window = WINDOW if rows[0].kind == "window" else None
    mask = create_attention_mask(queries[:, 0], batch, window_size=window)
    fetched = batch.update_and_fetch(keys, values)
    together = scaled_dot_product_attention(queries, *fetched, batch, 1.0, mask)
    for index, row in enumerate(rows):
        row.add(keys[index : index + 1], values[index : index + 1])
        full: Any = QuantizedKVCache(GROUP, BITS) if row.kind == "codes" else KVCache()
        seen = full.update_and_fetch(row.keys, row.values)
        places = mx.arange(row.length)
        own = places <= places[-count:, None]
        if window:
            own = own & (places > places[-count:, None] - window)
        by_itself = scaled_dot_product_attention(queries[index : index + 1], *seen, full, 1.0, own)
        assert np.array_equal(np.array(together[index : index + 1]), np.array(by_itself))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_rows_that_join_leave_and_go_back_are_what_they_would_be_alone(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    rows = [Alone(kind, rng.choice((0, 1, 3, 23, 24, 25, 255, 256, 257)), 10 * place) for place in range(3)]
    batch = merged([row.cache() for row in rows])
    for turn in range(16):
        match rng.choice(("step", "step", "draft", "draft", "join", "filter", "align")):
            case "draft":
                count = rng.randrange(2, 7)
                attended(batch, rows, count, 5000 + 10 * turn)
                back = [rng.randrange(count) for _ in rows]
                for row, n in zip(rows, back, strict=True):
                    row.back(n)
                batch.rewind(back)
            case "join":
                new = [
                    Alone(kind, rng.choice((0, 2, 30, 260)), 1000 + 7 * turn + n) for n in range(rng.randrange(1, 3))
                ]
                batch.extend(merged([row.cache() for row in new]))
                rows += new
            case "filter" if len(rows) > 1:
                kept = sorted(rng.sample(range(len(rows)), rng.randrange(1, len(rows))))
                batch.filter(kept)
                rows = [rows[index] for index in kept]
            case "align":
                batch.align()
                assert batch.level
            case _:
                attended(batch, rows, 1, 5000 + 10 * turn)
        assert batch.counts == [row.length for row in rows] == batch.offset.tolist()
        assert batch.size() == max(batch.counts)
        for index, row in enumerate(rows):
            for one in (batch.extract(index), row_cache(batch, index)):
                assert type(one) is type(row.cache())
                assert (one.offset, held(one, kind)) == (row.length, row.held())


def test_a_window_is_moved_seldom_and_never_grows_beyond_its_share() -> None:
    rows = [Alone("window", 3, 0), Alone("window", 2 * WINDOW, 1)]
    batch: Any = merged([row.cache() for row in rows])
    moved = 0
    for turn in range(10 * WINDOW):
        attended(batch, rows, 1, 100 + turn)
        moved += batch.ends[1] <= WINDOW
        assert batch.capacity <= WINDOW + 2 * beyond(WINDOW)
    assert 0 < moved <= 10 * WINDOW / beyond(WINDOW)


def test_a_row_alone_sums_a_window_as_any_batch_does() -> None:
    row = Alone("window", 5 * WINDOW, 0)
    batch = alone(row.cache())
    assert type(batch) is RaggedWindowKVCache
    kept = RotatingKVCache(WINDOW, keep=4)
    plain = KVCache()
    assert (alone(kept), alone(plain)) == (kept, plain)
    nested = alone(CacheList(row.cache(), plain))
    assert [type(cache) for cache in nested.caches] == [RaggedWindowKVCache, KVCache]
    # Nothing is hidden, so nothing is masked.
    assert batch.make_mask(1) is None
    assert batch.make_mask(2).shape == (1, 1, 2, WINDOW + 1)
    attended(batch, [row], 1, 50)


def test_padding_is_masked_and_counted() -> None:
    batch = merged([Alone("codes", 3, 0).cache(), Alone("codes", 1, 5).cache()])
    assert batch.make_mask(1)[:, 0, 0].tolist() == [[True] * 4, [False, False, True, True]]
    assert batch.nbytes == 2 * nbytes([Alone("codes", 3, 0).cache()])
    assert separable([batch])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_rows_without_a_token_takes_its_first_ones(kind: str) -> None:
    rows = [Alone(kind, 0, 0), Alone(kind, 0, 1)]
    batch = merged([row.cache() for row in rows])
    assert (batch.nbytes, batch.empty(), held(batch.extract(1), kind)) == (0, True, [])
    batch.extend(merged([Alone(kind, 0, 2).cache()]))
    rows.append(Alone(kind, 0, 2))
    attended(batch, rows, 1, 9)
    assert [held(batch.extract(index), kind) for index in range(3)] == [row.held() for row in rows]


def test_rows_of_unlike_caches_are_not_merged() -> None:
    codes, kept = QuantizedKVCache(GROUP, BITS), RotatingKVCache(WINDOW, keep=4)
    for layer in ([KVCache(), codes], [codes, KVCache()], [kept], [RotatingKVCache(8), RotatingKVCache(9)]):
        with pytest.raises(ValueError, match="cannot be merged"):
            merged(layer)


def test_lists_of_layers_are_merged_layer_by_layer() -> None:
    lists = [CacheList(Alone("codes", n, 4 * n).cache(), KVCache()) for n in (2, 1)]
    batch = merged(lists)
    assert [type(cache) for cache in batch.caches] == [RaggedQuantizedKVCache, RaggedKVCache]
    assert held(batch.caches[0].extract(1), "codes") == Alone("codes", 1, 4).held()


def test_a_copy_keeps_what_it_has_whatever_becomes_of_the_batch() -> None:
    rows = [Alone("numbers", 300, 0), Alone("numbers", 5, 2)]
    batch = merged([row.cache() for row in rows])
    kept = copied(batch)
    attended(batch, rows, 3, 7)
    batch.rewind([2, 0])
    batch.extend(merged([Alone("numbers", 4, 9).cache()]))
    assert (kept.counts, kept.level, kept.extract(1).offset) == ([300, 5], True, 5)
    assert held(kept.extract(0), "numbers") == Alone("numbers", 300, 0).held()


def test_numbers_become_the_codes_that_were_written_as_they_came() -> None:
    row = Alone("codes", 300, 3)
    plain = KVCache()
    plain.update_and_fetch(row.keys, row.values)
    (made,) = to_codes([plain], KVFormat(BITS, GROUP))
    assert held(made, "codes") == row.held()


@pytest.mark.parametrize("masked", [False, True])
def test_scores_of_a_chunk_take_what_is_reserved_for_them(masked: bool) -> None:
    heads, chunk, keys = 16, 128, 1024
    queries = mx.random.normal((1, heads, chunk, WIDTH))
    codes = Alone("codes", keys, 0).cache()
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
