"""What is stored as numbers serves lengths below the start, what is stored as codes those from there on."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from backend.engine.batching.two_forms import TwoForms
from backend.engine.quantized.conversion import to_codes
from backend.engine.quantized.kv_format import KVFormat
from mlx_cache.below import text_alone
from mlx_cache.payload import MlxPayload

START = 50
TOKENS = np.arange(101, dtype=np.int32)


def numbers(length: int) -> list[Any]:
    cache = KVCache()
    cache.update_and_fetch(*mx.random.normal((2, 1, 2, length, 64), key=mx.random.key(0)))
    return [cache]


@pytest.fixture
def store() -> TwoForms:
    return TwoForms(kv=KVFormat(4, 64, START), disk_namespace=text_alone, payload=MlxPayload())


@pytest.mark.parametrize(
    ("asked", "kind", "found"), [(30, KVCache, 29), (51, QuantizedKVCache, 50), (101, QuantizedKVCache, 80)]
)
def test_each_length_is_served_in_the_form_that_a_cold_run_has(
    store: TwoForms, asked: int, kind: type, found: int
) -> None:
    store.insert("m", TOKENS[:40], numbers(40))
    store.insert("m", TOKENS[:80], to_codes(numbers(80), KVFormat(4, 64)))
    fetched = store.fetch("m", TOKENS[:asked])
    assert fetched.caches is not None
    assert (type(fetched.caches[0]), fetched.length) == (kind, found)
    assert store.match_length("m", TOKENS[:asked]) == found


def test_codes_serve_nothing_below_the_start_and_numbers_nothing_from_there_on(store: TwoForms) -> None:
    store.insert("m", TOKENS[:80], to_codes(numbers(80), KVFormat(4, 64)))
    assert store.fetch("m", TOKENS[:START]).caches is None
    store.clear()
    store.insert("m", TOKENS[:START], numbers(START))
    assert store.fetch("m", TOKENS).length == START - 1
    assert store.fetch("other", TOKENS).caches is None


def test_a_pin_holds_the_form_that_serves_the_prompt(store: TwoForms) -> None:
    store.insert("m", TOKENS[:40], numbers(40))
    store.insert("m", TOKENS[:80], to_codes(numbers(80), KVFormat(4, 64)))
    assert store.pin("long", "m", TOKENS) == 80
    store.trim_to(n_bytes=0)
    assert (store.match_length("m", TOKENS), store.match_length("m", TOKENS[:30])) == (80, 0)


def test_a_namespace_is_dropped_with_both_its_forms(store: TwoForms) -> None:
    for key in ("m", "other"):
        store.insert(key, TOKENS[:40], numbers(40))
        store.insert(key, TOKENS[:80], to_codes(numbers(80), KVFormat(4, 64)))
    store.drop("m")
    assert [store.match_length("m", TOKENS[:length]) for length in (30, 101)] == [0, 0]
    assert [store.match_length("other", TOKENS[:length]) for length in (30, 101)] == [29, 80]
    store.clear()
    assert store.nbytes == 0
