"""What the copies of the prompt cache cost, beside one MLX copy of the same bytes and beside mlx-lm's cache.

python -m benchmarks.cache_copy [--layers 8 --heads 8 --features 64]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, LRUPromptCache

from mlx_cache import PromptCache


def fastest(call: Callable[[], Any], repeat: int) -> float:
    """Milliseconds of the fastest of some calls; the result is dropped after the clock stops."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        out = call()
        best = min(best, time.perf_counter() - start)
        del out
    return best * 1e3


def filled(tokens: int, layers: int, heads: int, features: int) -> list[KVCache]:
    """Caches as a model would have left them."""
    caches = [KVCache() for _ in range(layers)]
    for cache in caches:
        shape = (1, heads, tokens, features)
        cache.update_and_fetch(mx.random.normal(shape).astype(mx.float16), mx.random.normal(shape).astype(mx.float16))
    mx.eval([cache.state[:2] for cache in caches])
    return caches


def copied(caches: list[KVCache], tokens: int) -> list[mx.array]:
    """One MLX copy of a prefix, array by array."""
    out = [a[..., :tokens, :] + 0 for c in caches for a in (c.keys, c.values)]
    mx.eval(out)
    return out


def concatenated(caches: list[KVCache], tokens: int) -> list[mx.array]:
    """One MLX copy of a prefix as the fastest primitive does it: a concatenation of two halves."""
    half = tokens // 2
    out = [
        mx.concatenate([a[..., :half, :], a[..., half:tokens, :]], axis=2) for c in caches for a in (c.keys, c.values)
    ]
    mx.eval(out)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    shape, prefix, base = (args.layers, args.heads, args.features), 4096, 8192
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 1000, base + 512).astype(np.int32)
    caches = filled(base + 512, *shape)
    theirs, ours = LRUPromptCache(), PromptCache()
    ours.insert("m", tokens[:prefix], filled(prefix, *shape))
    asked = np.append(tokens[:prefix], np.int32(-1))
    theirs.insert_cache("m", tokens[:prefix].tolist(), filled(prefix, *shape))
    asked_list = asked.tolist()
    nbytes = ours.nbytes
    copy = min(
        fastest(lambda: copied(caches, prefix), args.repeat), fastest(lambda: concatenated(caches, prefix), args.repeat)
    )

    def lazy_made_real() -> list[mx.array]:
        cache, _ = theirs.fetch_nearest_cache("m", asked_list)
        # mlx-lm's deepcopy shares the buffers; the copy comes with the first token that is written.
        for c in cache:
            c.update_and_fetch(
                mx.zeros((1, shape[1], 1, shape[2]), mx.float16), mx.zeros((1, shape[1], 1, shape[2]), mx.float16)
            )
        mx.eval([c.state[:2] for c in cache])
        return cache

    def with_first_token() -> list[Any]:
        cache = ours.fetch("m", asked).caches or []
        for c in cache:
            c.update_and_fetch(
                mx.zeros((1, shape[1], 1, shape[2]), mx.float16), mx.zeros((1, shape[1], 1, shape[2]), mx.float16)
            )
        mx.eval([c.state[:2] for c in cache])
        return cache

    fetch = fastest(lambda: ours.fetch("m", asked), args.repeat)
    print(
        f"{args.layers} layers, {args.heads} heads of {args.features}, float16; 4k tokens are {nbytes / 2**20:.0f} MiB"
    )
    print(f"{'one MLX copy of 4k tokens, ms':48} {copy:9.2f}")
    print(f"{'fetch of 4k tokens, ms (copies)':48} {fetch:9.2f} ({fetch / copy:.2f})")
    print(f"{'fetch and first token, ms':48} {fastest(with_first_token, args.repeat):9.2f}")
    print(f"{'mlx-lm: fetch and first token, ms':48} {fastest(lazy_made_real, args.repeat):9.2f}")
    insert(ours, caches, tokens, base, args.repeat)


def insert(ours: PromptCache, caches: list[KVCache], tokens: np.ndarray[Any, Any], base: int, repeat: int) -> None:
    """A suffix of 512 onto 8k tokens."""
    ours.clear()
    short = [KVCache() for _ in caches]
    for cache, whole in zip(short, caches, strict=True):
        cache.keys, cache.values, cache.offset = whole.keys, whole.values, base
    whole_ms = fastest(lambda: (ours.clear(), ours.insert("m", tokens[:base], short)), 3)
    times, grown = [], 0
    for number in range(repeat):
        suffix = tokens.copy()
        suffix[base:] += 1000 * (number + 1)
        before, mx_before = ours.nbytes, mx.get_active_memory()
        mx.reset_peak_memory()
        start = time.perf_counter()
        done = ours.insert("m", suffix, caches)
        times.append(time.perf_counter() - start)
        assert done.new_tokens == 512
        grown = ours.nbytes - before
        assert mx.get_peak_memory() - mx_before <= 1.1 * grown
    print(f"{'insert of 8k tokens, ms':48} {whole_ms:9.2f}")
    print(f"{'insert of 512 tokens onto them, ms (MiB)':48} {min(times) * 1e3:9.2f} ({grown / 2**20:.1f})")


if __name__ == "__main__":
    main()
