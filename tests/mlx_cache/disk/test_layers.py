"""What comes back from the disk equals what was stored, bit for bit, for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
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

from mlx_cache import DiskTier, PromptCache, Reason
from mlx_cache.disk.arrays import MlxCodec, writable
from mlx_cache.payload import MlxPayload
from tests.mlx_cache.families import model, prompt, run, run_in_chunks
from tests.mlx_cache.test_families import assert_equal

LENGTH = 700


def tier(path: Path, **options: Any) -> DiskTier:
    made = DiskTier(path, **({"max_bytes": 1 << 30, "bytes_per_second": None} | options))
    made.open()
    return made


def arrays(*shapes: tuple[int, ...], dtype: mx.Dtype) -> list[mx.array]:
    return [mx.random.normal(shape).astype(dtype) for shape in shapes]


def feed(cache: Any, n: int, dtype: mx.Dtype) -> Any:
    """A layer cache after a prompt in chunks and some single tokens, its keys and values of different sizes."""
    chunks = [min(300, n - 5 - start) for start in range(0, n - 5, 300)]
    for count in [*chunks, 1, 1, 1, 1, 1]:
        cache.update_and_fetch(*arrays((1, 2, count, 64), (1, 2, count, 32), dtype=dtype))
    mx.eval(cache.state)
    return cache


def state(dtype: mx.Dtype, *, hole: bool = False) -> ArraysCache:
    cache = ArraysCache(3 if hole else 2)
    cache.cache[0], cache.cache[1] = arrays((1, 3, 7), (1, 2, 5, 4), dtype=dtype)
    mx.eval([a for a in cache.cache if a is not None])
    return cache


# For each kind: an empty list of caches, and one filled with so many tokens.
KINDS: dict[str, tuple[Callable[[], list[Any]], Callable[[int, mx.Dtype], list[Any]]]] = {
    "plain": (lambda: [KVCache(), KVCache()], lambda n, t: [feed(KVCache(), n, t), feed(KVCache(), n, t)]),
    "concatenate": (lambda: [ConcatenateKVCache()], lambda n, t: [feed(ConcatenateKVCache(), n, t)]),
    "quantized": (
        lambda: [QuantizedKVCache(group_size=32, bits=4)],
        lambda n, t: [feed(QuantizedKVCache(group_size=32, bits=4), n, t)],
    ),
    "window": (
        lambda: [KVCache(), RotatingKVCache(max_size=128)],
        lambda n, t: [feed(KVCache(), n, t), feed(RotatingKVCache(max_size=128), n, t)],
    ),
    "window alone": (
        lambda: [RotatingKVCache(max_size=128)], lambda n, t: [feed(RotatingKVCache(max_size=128), n, t)],
    ),
    "kept tokens": (
        lambda: [RotatingKVCache(max_size=512, keep=4)],
        lambda n, t: [feed(RotatingKVCache(max_size=512, keep=4), n, t)],
    ),
    "chunked": (
        lambda: [KVCache(), ChunkedKVCache(256)],
        lambda n, t: [feed(KVCache(), n, t), feed(ChunkedKVCache(256), n, t)],
    ),
    "states": (lambda: [ArraysCache(2)], lambda n, t: [state(t)]),
    "states with a hole": (
        lambda: [KVCache(), ArraysCache(3)], lambda n, t: [feed(KVCache(), n, t), state(t, hole=True)],
    ),
    "nested": (
        lambda: [CacheList(KVCache(), ArraysCache(2)), KVCache()],
        lambda n, t: [CacheList(feed(KVCache(), n, t), state(t)), feed(KVCache(), n, t)],
    ),
    "mixed": (
        lambda: [ArraysCache(2), KVCache(), RotatingKVCache(max_size=64), QuantizedKVCache(group_size=32, bits=8)],
        lambda n, t: [
            state(t), feed(KVCache(), n, t), feed(RotatingKVCache(max_size=64), n, t),
            feed(QuantizedKVCache(group_size=32, bits=8), n, t),
        ],
    ),
}  # fmt: skip


def prompt_of(n: int) -> Any:
    return np.arange(n, dtype=np.int32)


# Lengths around a block, then the other dtypes, then the way for machines whose arrays cannot be written in place.
WAYS = [
    (700, mx.float16, True), (512, mx.float16, True), (100, mx.float16, True), (700, mx.float32, True),
    (700, mx.bfloat16, True), (700, mx.bfloat16, False),
]  # fmt: skip


@pytest.mark.parametrize(("n", "dtype", "direct"), WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_restarted_worker_has_what_the_old_one_stored(
    kind: str, n: int, dtype: mx.Dtype, direct: bool, tmp_path: Path
) -> None:
    empty, filled = KINDS[kind]
    caches, tokens = filled(n, dtype), prompt_of(n)
    old = tier(tmp_path / "kv")
    store = PromptCache(disk=old)
    assert store.insert("m", tokens, caches).refusal is None
    assert store.flush(60)
    old.close(10)
    new = tier(tmp_path / "kv", codec=MlxCodec(direct))
    asked = np.append(tokens, np.int32(-1))
    assert new.match("m", asked) == n
    fetched = PromptCache(disk=new).fetch_from_disk("m", asked, empty())
    assert (fetched.length, fetched.reason) == (n, Reason.FULL) and fetched.caches is not None
    assert_equal(fetched.caches, caches, n)
    assert [type(c) for c in fetched.caches] == [type(c) for c in caches]
    assert list(new.verify()) == []
    new.close(10)


def test_arrays_can_be_written_in_place_here() -> None:
    assert writable()


@pytest.mark.parametrize("n", [1, 255, 256, 257, 511, 600])
def test_a_sequence_that_can_be_cut_serves_prompts_wherever_they_leave_it(n: int, tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    store, tokens = PromptCache(disk=disk), prompt_of(LENGTH)
    caches = [feed(KVCache(), LENGTH, mx.float16)]
    store.insert("m", tokens, caches)
    assert store.flush(60)
    asked = np.concatenate([tokens[:n], np.full(100, -7, np.int32)])
    fetched = disk.read("m", asked, [KVCache()], room=10)
    assert disk.match("m", asked) == n // 256 * 256
    assert fetched.length == n <= disk.match_at_most("m", asked)
    if fetched.caches is not None:
        assert_equal(fetched.caches, caches_at(caches, fetched.length), fetched.length)
        assert fetched.caches[0].keys.shape[2] >= fetched.length + 10
    # An exact repeat leaves the last token to run, wherever that cuts.
    for length in (256, 512, LENGTH):
        again = disk.read("m", tokens[:length], [KVCache()])
        assert again.length == length - 1
        assert_equal(again.caches or [], caches_at(caches, length - 1), length - 1)
    disk.close(10)


def caches_at(caches: list[Any], n: int) -> list[Any]:
    out = []
    for cache in caches:
        made = KVCache()
        made.keys, made.values, made.offset = cache.keys[..., :n, :], cache.values[..., :n, :], n
        out.append(made)
    return out


def test_conversations_that_part_share_their_blocks(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    store, common = PromptCache(disk=disk), prompt_of(512)
    caches = {}
    for name in (1, 2):
        tokens = np.concatenate([common, np.full(88, name, np.int32)])
        caches[name] = [feed(KVCache(), 600, mx.float16)]
        # The first 512 entries are the same, as a model would have them.
        caches[name][0].keys[..., :512, :] = caches[1][0].keys[..., :512, :]
        caches[name][0].values[..., :512, :] = caches[1][0].values[..., :512, :]
        store.insert("m", tokens, caches[name])
    assert store.flush(60)
    assert sorted(stored.tokens for stored in disk.entries()) == [88, 88, 256, 256]
    for name in (1, 2):
        fetched = disk.read("m", np.concatenate([common, np.full(89, name, np.int32)]), [KVCache()])
        assert_equal(fetched.caches or [], caches[name], 600)
    disk.close(10)


@pytest.mark.parametrize(
    "family",
    [
        "qwen3",
        "gemma3_text",
        "mamba2",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("qwen3_next", "llama4", "baichuan_m1")),
    ],
)
def test_a_models_logits_go_on_as_after_a_cold_run(family: str, tmp_path: Path) -> None:
    made, tokens = model(family), prompt(120)
    disk = tier(tmp_path / "kv", block_tokens=32)
    store, caches = PromptCache(disk=disk), make_prompt_cache(made)
    run_in_chunks(made, tokens[:100], caches, 20, lambda n: store.insert("m", tokens[:n], caches))
    assert store.flush(60)
    # On a thread of its own, as a worker reads, while this one goes on.
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(disk.read, "m", tokens[:101], make_prompt_cache(made)).result(60)
    assert fetched.length == 100 and fetched.caches is not None
    assert mx.array_equal(run(made, tokens[100:], fetched.caches), run(made, tokens[100:], caches))
    disk.close(10)


def test_classes_that_nobody_knows_are_not_written(tmp_path: Path) -> None:
    class Stranger(KVCache):
        pass

    disk = tier(tmp_path / "kv")
    store = PromptCache(disk=disk, payload=MlxPayload([Stranger]))
    assert store.insert("m", prompt_of(300), [feed(Stranger(), 300, mx.float16)]).refusal is None
    assert store.flush(60)
    assert disk.stats()["files"] == 0
    disk.close(10)


OTHERS: dict[str, Callable[[], list[Any]]] = {
    "another class": lambda: [QuantizedKVCache(), KVCache()],
    "fewer layers": lambda: [KVCache()],
    "more layers": lambda: [KVCache(), KVCache(), KVCache()],
    "a window": lambda: [KVCache(), RotatingKVCache(max_size=64)],
    "nested": lambda: [CacheList(KVCache(), KVCache())],
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_made_for_other_layer_caches_is_a_miss(other: str, tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    store = PromptCache(disk=disk)
    store.insert("m", prompt_of(300), [feed(KVCache(), 300, mx.float16), feed(KVCache(), 300, mx.float16)])
    assert store.flush(60)
    fetched = disk.read("m", prompt_of(301), OTHERS[other]())
    assert fetched.caches is None and fetched.length == 0
    assert disk.stats()["quarantined"] >= 1
    disk.close(10)


def test_a_template_of_a_class_that_nobody_knows_is_a_miss_and_harms_nothing(tmp_path: Path) -> None:
    class Stranger(KVCache):
        pass

    disk = tier(tmp_path / "kv")
    store = PromptCache(disk=disk)
    store.insert("m", prompt_of(300), [feed(KVCache(), 300, mx.float16)])
    assert store.flush(60)
    assert disk.read("m", prompt_of(301), [Stranger()]).reason is Reason.UNSUPPORTED_LAYER
    assert disk.read("m", prompt_of(301), [KVCache()]).length == 300
    disk.close(10)
