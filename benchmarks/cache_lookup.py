"""Index work of the prompt cache beside mlx-lm's: 1,000 sequences, prompts up to 128k tokens.

    python -m benchmarks.cache_lookup

Payloads are empty, so only the index is measured: what happens under the lock, and the whole `match_length` call.
mlx-lm's cache is given lists, its own form; ours int32 arrays, with the cost of making one from a list apart.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from mlx_lm.models.cache import LRUPromptCache
from numpy.typing import NDArray

from benchmarks.cache_payload import EmptyPayload, layer
from benchmarks.report import Report, arguments, parse
from mlx_cache import PromptCache

Tokens = NDArray[np.int32]
LENGTHS = (1_024, 4_096, 16_384, 65_536, 131_072)
LONGEST = LENGTHS[-1]


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def p99(samples: list[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(samples, 99))


def sequences(n: int, seed: int = 0) -> list[Tokens]:
    """Prompts of 1k to 8k tokens that share 500, and one of the longest length."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, 150_000, 500)
    out = [
        np.concatenate([shared, rng.integers(0, 150_000, rng.integers(1_000, 8_000))]).astype(np.int32)
        for _ in range(n - 1)
    ]
    out.append(rng.integers(0, 150_000, LONGEST).astype(np.int32))
    return out


def filled(stored: list[Tokens]) -> PromptCache:
    """Our cache with empty payloads."""
    cache = PromptCache(max_bytes=None, payload=EmptyPayload())
    for tokens in stored:
        cache.insert("m", tokens, layer(len(tokens)))
    return cache


def lookups(cache: PromptCache, long: Tokens, repeat: int) -> list[tuple[int, float, float]]:
    """(length, p50, p99) of milliseconds under the lock for prompts that agree with the longest sequence."""
    out = []
    index = cache._locked.index  # noqa: SLF001  what runs under the lock, and nothing else
    for length in LENGTHS:
        asked = long[:length].copy()
        samples = []
        for _ in range(repeat):
            start = time.perf_counter()
            found = index.find("m", asked, length - 1)
            samples.append((time.perf_counter() - start) * 1e3)
            assert found.hold is not None and found.restorable.length == length - 1
            found.hold.release()
        out.append((length, float(np.median(samples)), p99(samples)))
    return out


def theirs(stored: list[Tokens], long: Tokens) -> tuple[list[tuple[int, float]], float, float, int]:
    """mlx-lm: (length, ms) of a lookup that hits, ms of one sharing 100 tokens, ms of a 128k insert, index bytes."""
    cache, lists = LRUPromptCache(max_size=1 << 40), [tokens.tolist() for tokens in stored]
    first = lists[:-1][:200]
    tracemalloc.start()
    for tokens in first:
        cache.insert_cache("m", tokens, [])
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    per_token = grown / sum(map(len, first))
    for tokens in lists[len(first) : -1]:
        cache.insert_cache("m", tokens, [])
    insert = timed(lambda: cache.insert_cache("m", lists[-1], []))
    hits = []
    for length in LENGTHS:
        asked = long[:length].tolist()
        # mlx-lm walks from the match to the nearest stored end: seconds where the prompt ends early.
        asked = asked if length == LONGEST else [*asked, -1]
        hits.append((length, timed(lambda asked=asked: cache.fetch_nearest_cache("m", asked))))
    unshared = [*long[:100].tolist(), -1]
    return hits, timed(lambda: cache.fetch_nearest_cache("m", unshared)), insert, int(per_token)


def index_bytes(stored: list[Tokens]) -> tuple[float, PromptCache]:
    """Bytes of index per stored token, and the cache."""
    tracemalloc.start()
    cache = filled(stored)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return grown / cache.stats()["n_tokens"], cache


def insert_ms(cache: PromptCache, repeat: int) -> list[float]:
    """Inserts of 128k new tokens, whole calls, nothing to copy."""
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, 150_000, LONGEST).astype(np.int32) for _ in range(repeat)]
    return [timed(lambda t=tokens: cache.insert("m", t, layer(LONGEST))) for tokens in prompts]


def draw(axes: Any, ours: list[tuple[int, float, float]], their_hits: list[tuple[int, float]]) -> None:
    """Lookup time against length."""
    axes.loglog([r[0] for r in ours], [r[2] for r in ours], "o-", label="mlx_cache, p99")
    axes.loglog(*zip(*their_hits, strict=True), "s-", label="mlx-lm LRUPromptCache")
    axes.axhline(0.1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="prompt tokens", ylabel="lookup, ms")


def measure(stored: list[Tokens], repeat: int) -> tuple[list[list[object]], Any, Any]:
    """The table's rows, and the lookups of both sides."""
    long = stored[-1]
    per_token, cache = index_bytes(stored)
    ours = lookups(cache, long, repeat)
    inserts = insert_ms(cache, min(repeat, 50))
    as_list = long.tolist()
    conversion = min(timed(lambda: np.ascontiguousarray(as_list, dtype=np.int32)) for _ in range(20))
    miss = np.concatenate([long[:100], -np.ones(LONGEST - 100, np.int32)])
    missed = [timed(lambda: cache.match_length("m", miss)) for _ in range(repeat)]
    hits, unshared, their_insert, their_bytes = theirs(stored, long)
    rows: list[list[object]] = [
        [f"lookup of {length:,} tokens, ms", middle, high, their]
        for (length, middle, high), (_, their) in zip(ours, hits, strict=True)
    ]
    rows += [
        ["lookup sharing 100 of 128k tokens, ms", float(np.median(missed)), p99(missed), unshared],
        ["insert of 128k tokens, ms", float(np.median(inserts)), p99(inserts), their_insert],
        ["index, bytes a token", per_token, "", their_bytes],
        ["list to int32 array, 128k, ms", conversion, "", ""],
    ]
    return rows, ours, hits


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=1000)
    options = parse(parser, sequences=50, repeat=10)
    stored = sequences(options.sequences)
    report = Report(options)
    report.note(f"{len(stored)} sequences, {sum(map(len, stored)):,} tokens, Python {sys.version.split()[0]}")
    rows, ours, hits = measure(stored, options.repeat)
    report.table(["", "mlx_cache, p50", "p99", "mlx-lm"], rows)
    report.plot(lambda axes: draw(axes, ours, hits))


if __name__ == "__main__":
    main()
