"""The prompt cache holds codes, rows hold numbers: what it had is what it keeps, and nobody else's answer changes."""

import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from backend.config import CacheConfig, EngineConfig
from backend.core.request import Sampling
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.tenant_store import TenantStore
from backend.engine.handle import EngineHandle
from backend.engine.quantized.kv_format import KVFormat
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.engine.test_exactness import CHUNK, assert_same, together
from tests.models import write_model
from tests.rounding import LEAST

AT_REST = CacheConfig(kv_bits=4)
FREE = Sampling(ignore_eos=True)
TOKENS = np.arange(700, dtype=np.int32)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama", "llama", extra={"head_dim": 64})


def row(length: int) -> list[KVCache]:
    caches = [KVCache(), KVCache()]
    for place, cache in enumerate(caches):
        cache.update_and_fetch(*mx.random.normal((2, 1, 2, length, 64), key=mx.random.key(place)))
    return caches


def numbers(caches: list[KVCache], length: int) -> list[object]:
    return [array[..., :length, :].tolist() for cache in caches for array in (cache.keys, cache.values)]


def store() -> PromptCache:
    return PromptCache(payload=MlxPayload(at_rest=(64, 4)))


def test_what_is_restored_are_the_numbers_that_the_codes_stand_for() -> None:
    cache, caches = store(), row(700)
    cache.insert("m", TOKENS, caches)
    assert cache.nbytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in row(700)) // 768 * 700 * 5 // 32
    fetched = cache.fetch("m", TOKENS[:601])
    assert fetched.length == 600 and fetched.caches is not None
    codes = [
        mx.dequantize(*mx.quantize(array, group_size=64, bits=4), group_size=64, bits=4)[..., :600, :].tolist()
        for layer in caches
        for array in (layer.keys, layer.values)
    ]
    assert numbers(fetched.caches, 600) == codes


def test_codes_are_kept_and_never_made_of_what_was_restored() -> None:
    cache = store()
    nowhere = CacheDisk("", "", lambda: None, time.monotonic)
    forever = Conversations(idle_s=None, most=1)
    prefix = PrefixCache(
        TenantStore(cache, "m", nowhere), snapshots=False, conversations=forever, codes=KVFormat(4, 64)
    )
    prefix.insert(TOKENS[:600], row(600))
    before = prefix.fetch(TOKENS)
    assert before.length == 600 and before.caches is not None
    grown = [copy_of(layer, 100) for layer in before.caches]
    prefix.insert(TOKENS, grown, restored=600)
    after = prefix.fetch(np.append(TOKENS, 1).astype(np.int32))
    assert after.length == 700 and after.caches is not None
    assert numbers(after.caches, 600) == numbers(before.caches, 600)
    cache.clear()
    # Of what is gone the row has no codes, only what they stood for.
    prefix.insert(TOKENS, grown, restored=600)
    assert (prefix.nbytes, prefix.match(TOKENS)) == (0, 0)
    prefix.insert(TOKENS, grown)
    assert prefix.nbytes > 0


def test_what_comes_from_everybodys_name_becomes_a_tenants_as_the_same_codes() -> None:
    nowhere, forever = CacheDisk("", "", lambda: None, time.monotonic), Conversations(idle_s=None, most=1)
    prefix = PrefixCache(
        TenantStore(store(), "m", nowhere), snapshots=False, conversations=forever, codes=KVFormat(4, 64)
    )
    assert prefix.kept.keep("rules", TOKENS[:600], row(600))
    named = prefix.fetch(TOKENS, "ours")
    assert named.length == 600 and named.caches is not None
    prefix.insert(TOKENS, [copy_of(layer, 100) for layer in named.caches], "ours", restored=600)
    # The tenant has asked once.
    assert (prefix.figures()["fetches"], prefix.figures()["hits"]) == (1, 1)
    own = prefix.fetch(np.append(TOKENS, 1).astype(np.int32), "ours")
    assert own.length == 700 and own.caches is not None
    assert numbers(own.caches, 600) == numbers(named.caches, 600)


def copy_of(layer: KVCache, more: int) -> KVCache:
    made = KVCache()
    made.update_and_fetch(layer.keys[..., : layer.offset, :], layer.values[..., : layer.offset, :])
    made.update_and_fetch(*mx.random.normal((2, 1, 2, more, 64), key=mx.random.key(9)))
    return made


def run(path: Path, texts: list[str], cache: CacheConfig) -> tuple[list[Answer], float]:
    """One after the other, and the bytes that are stored then."""

    async def body(handle: EngineHandle) -> tuple[list[Answer], float]:
        answers = [await read(handle, request(text, sampling=FREE)) for text in texts]
        return answers, (await settled(handle))["cached_kv_bytes"]

    return with_engine(model_config(path, engine=EngineConfig(prefill_chunk=CHUNK), cache=cache), body)


def test_a_hit_is_near_the_cold_run_and_takes_a_third_of_the_bytes(llama: Path) -> None:
    texts = ["The rivers of the north are long. " * 8] * 2
    (cold, _), full = run(llama, texts, CacheConfig())
    (first, hit), stored = run(llama, texts, AT_REST)
    assert first.logprobs == cold.logprobs
    assert hit.end is not None and hit.end.usage.cached_tokens == len(texts[0]) - 1
    assert hit.logprobs != cold.logprobs
    assert hit.logprobs[0].logprob == pytest.approx(cold.logprobs[0].logprob, abs=0.5)
    # Scales and biases are float32 here; the second answer is another, so that it is stored too.
    assert stored / full == pytest.approx((4 / 8 + 2 * 4 / 64) / 4, rel=0.1)


def test_what_a_hit_leaves_behind_is_found_as_the_same_numbers(llama: Path) -> None:
    text = "The rivers of the north are long. " * 8
    first, second, third = run(llama, [text] * 3, AT_REST)[0]
    assert first.logprobs != second.logprobs
    assert second.logprobs == third.logprobs


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", "device"])
def test_rows_without_a_hit_answer_as_alone_also_where_they_had_to_go_and_come_back(llama: Path, sampler: str) -> None:
    wanted = [request(f"{index} budget " * 12, n=300, sampling=FREE) for index in range(5)]

    async def crowd(handle: EngineHandle) -> tuple[list[Answer], float]:
        answers = await together(handle, wanted[:4], 1)
        return answers, handle.info().queue["preemptions"]

    async def alone(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, item) for item in wanted[:4]]

    per_token = 2 * 2 * 2 * 64 * 4
    tight = EngineConfig(prefill_chunk=CHUNK, kv_bytes=2 * per_token * 1280, sampler=sampler)  # type: ignore[arg-type]
    roomy = EngineConfig(prefill_chunk=CHUNK, sampler=sampler)  # type: ignore[arg-type]
    answers, preemptions = with_engine(model_config(llama, engine=tight, cache=AT_REST), crowd)
    assert preemptions > 0
    for ours, theirs in zip(answers, with_engine(model_config(llama, engine=roomy), alone), strict=True):
        assert_same(ours, theirs, LEAST)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_next", "gemma3_text"])
def test_states_and_windows_are_kept_as_they_are(family: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / family, family, extra={"head_dim": 64})
    text = "The rivers of the north are long. " * 8
    first, second, third = run(path, [text] * 3, CacheConfig(kv_bits=8))[0]
    assert second.end is not None and second.end.usage.cached_tokens == len(text) - 1
    assert second.logprobs == third.logprobs
    assert first.logprobs[0].logprob == pytest.approx(second.logprobs[0].logprob, abs=0.1)
