"""Replay of a public trace of chat requests: share of the prompt tokens served from cache against the byte budget.

    python -m benchmarks.cache_trace [--trace ../shared/traces/conversation_trace.jsonl]

Each id of the trace stands for a block of 512 tokens. Beside the cache itself run two simulators on the same
requests: leaf-first LRU over shared blocks, and LRU over whole sequences, which is what mlx-lm's cache would be with
a byte limit, recency counted on use, and no copy ever made twice. Budgets are shares of the trace's distinct tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache_payload import EmptyPayload, layer
from mlx_cache import EvictionPolicy, LeafLru, PromptCache, ValuePerByte

BLOCK = 512
BUDGETS = (0.01, 0.02, 0.05, 0.10, 0.20, 0.40)
TRACE = Path("../shared/traces/conversation_trace.jsonl")


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the trace."""

    blocks: list[int]
    length: int

    def tokens(self) -> NDArray[np.int32]:
        """Each block's id, repeated. The last block may be partial in truth; whole, it is equal wherever it recurs."""
        return np.repeat(np.asarray(self.blocks, np.int32), BLOCK)


def read(path: Path) -> list[Request]:
    """The requests in their order."""
    with path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [Request(row["hash_ids"], row["input_length"]) for row in rows]


def replay(requests: list[Request], max_bytes: int, policy: EvictionPolicy) -> float:
    """The cache itself, a byte a token."""
    cache = PromptCache(max_bytes=max_bytes, max_buffers=1 << 60, payload=EmptyPayload(), policy=policy)
    asked = served = 0
    for request in requests:
        tokens = request.tokens()
        served += min(cache.fetch("m", tokens).length, request.length - 1)
        asked += request.length
        cache.insert("m", tokens, layer(len(tokens)))
    return served / asked


def replay_last_lines(requests: list[Request], n: int) -> float:
    """mlx-lm's and LocalAI's default: whole sequences, the latest n."""
    kept: OrderedDict[tuple[int, ...], int] = OrderedDict()
    asked = served = 0
    for request in requests:
        best = max((_agreeing(request.blocks, other) for other in kept), default=0)
        served += min(best * BLOCK, request.length - 1)
        asked += request.length
        kept[tuple(request.blocks)] = request.length
        while len(kept) > n:
            kept.popitem(last=False)
    return served / asked


def replay_whole_sequences(requests: list[Request], max_blocks: float) -> float:
    """LRU over whole sequences; a block is counted once however many sequences hold it."""
    users: dict[int, int] = {}
    kept: OrderedDict[int, list[int]] = OrderedDict()
    newest: dict[int, int] = {}
    asked = served = 0
    for number, request in enumerate(requests):
        hit = next((i for i, block in enumerate(request.blocks) if block not in users), len(request.blocks))
        served += min(hit * BLOCK, request.length - 1)
        asked += request.length
        if hit:
            owner = newest[request.blocks[hit - 1]]
            if owner in kept:
                kept.move_to_end(owner)
        for block in request.blocks:
            users[block] = users.get(block, 0) + 1
            newest[block] = number
        kept[number] = request.blocks
        while len(users) > max_blocks and len(kept) > 1:
            for block in kept.popitem(last=False)[1]:
                users[block] -= 1
                if not users[block]:
                    del users[block]
    return served / asked


def _agreeing(a: list[int], b: tuple[int, ...]) -> int:
    # Equal ids mean equal content up to there, so the first difference is found by bisection.
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[middle - 1] == b[middle - 1] else (low, middle - 1)
    return low


def draw(rows: list[tuple[float, float, float, float]], limit: float, path: Path) -> None:
    """Hit rate against budget."""
    import matplotlib.pyplot as plt

    plt.figure(figsize=(6, 3.6))
    shares = [100 * row[0] for row in rows]
    for column, (label, mark) in enumerate(
        (("mlx_cache: value per byte", "o-"), ("mlx_cache: leaf LRU", "s--"), ("whole-sequence LRU", "^:")), start=1
    ):
        plt.semilogx(shares, [row[column] for row in rows], mark, label=label)
    plt.axhline(limit, color="grey", linewidth=0.8, label="no limit")
    plt.xticks(shares, [f"{share:g} %" for share in shares])
    plt.minorticks_off()
    plt.xlabel("budget, share of the distinct tokens")
    plt.ylabel("prompt tokens from cache")
    plt.legend()
    plt.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=90)


def main() -> None:
    """Replay, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/cache-trace.png"))
    args = parser.parse_args()
    if not args.trace.exists():
        sys.exit(f"no trace at {args.trace}")
    requests = read(args.trace)
    distinct = len({block for request in requests for block in request.blocks})
    start = time.perf_counter()
    limit = replay(requests, 1 << 60, ValuePerByte())
    seconds = time.perf_counter() - start
    print(f"{len(requests):,} requests, {sum(r.length for r in requests):,} tokens, {distinct:,} distinct blocks")
    print(f"no limit {limit:.4f} ({1e3 * seconds / len(requests):.2f} ms a request, all of it)")
    print(f"the 10 latest sequences {replay_last_lines(requests, 10):.4f}")
    print(f"{'budget':>8} {'mlx_cache':>10} {'leaf LRU':>10} {'sequences':>10}")
    rows = []
    for share in BUDGETS:
        budget = int(distinct * share) * BLOCK
        row = (
            share,
            replay(requests, budget, ValuePerByte()),
            replay(requests, budget, LeafLru()),
            replay_whole_sequences(requests, distinct * share),
        )
        rows.append(row)
        print(f"{share:8.0%} {row[1]:10.4f} {row[2]:10.4f} {row[3]:10.4f}", flush=True)
    draw(rows, limit, args.plot)


if __name__ == "__main__":
    main()
