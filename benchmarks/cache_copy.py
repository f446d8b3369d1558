"""What the copies of the prompt cache cost, beside one MLX copy of the same bytes and beside mlx-lm's cache.

python -m benchmarks.cache_copy [--layers 8 --heads 8 --features 64]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, LRUPromptCache
from numpy.typing import NDArray

from benchmarks.report import Report, arguments, parse
from mlx_cache import PromptCache

Tokens = NDArray[np.int32]
PREFIX, BASE, SUFFIX = 4096, 8192, 512


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


def touched(caches: list[Any], heads: int, features: int) -> list[Any]:
    """Write one token, as a model's first step does: what was copied lazily is copied now."""
    one = mx.zeros((1, heads, 1, features), mx.float16)
    for cache in caches:
        cache.update_and_fetch(one, one)
    mx.eval([cache.state[:2] for cache in caches])
    return caches


def fetches(tokens: Tokens, shape: tuple[int, int, int], repeat: int) -> list[tuple[str, float]]:
    """Milliseconds of a copy of 4k tokens and of fetches that make one."""
    theirs, ours = LRUPromptCache(), PromptCache()
    caches = filled(PREFIX, *shape)
    ours.insert("m", tokens[:PREFIX], caches)
    theirs.insert_cache("m", tokens[:PREFIX].tolist(), filled(PREFIX, *shape))
    asked = np.append(tokens[:PREFIX], np.int32(-1))
    as_list, kind = asked.tolist(), shape[1:]
    whole = filled(BASE, *shape)
    copies = [fastest(lambda copy=copy: copy(whole, PREFIX), repeat) for copy in (copied, concatenated)]
    return [
        ("one MLX copy of 4k tokens", min(copies)),
        ("fetch of 4k tokens", fastest(lambda: ours.fetch("m", asked), repeat)),
        ("fetch and first token", fastest(lambda: touched(ours.fetch("m", asked).caches or [], *kind), repeat)),
        # mlx-lm's deepcopy shares the buffers; the copy comes with the first token that is written.
        (
            "mlx-lm: fetch and first token",
            fastest(lambda: touched(theirs.fetch_nearest_cache("m", as_list)[0], *kind), repeat),
        ),
    ]


def inserts(tokens: Tokens, shape: tuple[int, int, int], repeat: int) -> list[tuple[str, float]]:
    """Milliseconds of an insert of 8k tokens, and of a suffix of 512 onto them."""
    ours, caches = PromptCache(), filled(BASE + SUFFIX, *shape)
    short = [KVCache() for _ in caches]
    for cache, whole in zip(short, caches, strict=True):
        cache.keys, cache.values, cache.offset = whole.keys, whole.values, BASE
    whole_ms = fastest(lambda: (ours.clear(), ours.insert("m", tokens[:BASE], short)), min(repeat, 3))
    times: list[float] = []
    for number in range(repeat):
        suffix = tokens.copy()
        suffix[BASE:] += 1000 * (number + 1)
        before, mx_before = ours.nbytes, mx.get_active_memory()
        mx.reset_peak_memory()
        start = time.perf_counter()
        done = ours.insert("m", suffix, caches)
        times.append(time.perf_counter() - start)
        assert done.new_tokens == SUFFIX
        assert mx.get_peak_memory() - mx_before <= 1.1 * (ours.nbytes - before)
    return [("insert of 8k tokens", whole_ms), ("insert of 512 tokens onto them", min(times) * 1e3)]


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=15)
    options = parse(parser, layers=2, repeat=3)
    shape = (options.layers, options.heads, options.features)
    tokens = np.random.default_rng(0).integers(0, 1000, BASE + SUFFIX).astype(np.int32)
    report = Report(options)
    mib = PREFIX * 2 * 2 * options.layers * options.heads * options.features / 2**20
    report.note(f"{shape[0]} layers, {shape[1]} heads of {shape[2]}, float16; 4k tokens are {mib:.0f} MiB")
    rows = fetches(tokens, shape, options.repeat) + inserts(tokens, shape, options.repeat)
    copy = rows[0][1]
    report.table(["", "ms", "in copies of 4k tokens"], [[what, ms, ms / copy] for what, ms in rows])


if __name__ == "__main__":
    main()
