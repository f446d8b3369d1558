"""Replay of a public trace of chat requests: share of the prompt tokens served from cache against the byte budget.

    python -m benchmarks.cache_trace [--trace ../shared/traces/conversation_trace.jsonl]

The trace is the conversation trace that was published with the Mooncake paper (FAST'25), Apache-2.0: the file
FAST25-release/traces/conversation_trace.jsonl of the repository kvcache-ai/Mooncake on GitHub. To redo the README's
row, fetch it and name it:

    git clone --depth 1 https://github.com/kvcache-ai/Mooncake build/Mooncake
    python -m benchmarks.cache_trace --trace build/Mooncake/FAST25-release/traces/conversation_trace.jsonl

Without the trace nothing is measured, which is said on standard error.

Each id of the trace stands for a block of 512 tokens. Beside the cache itself run two simulators on the same
requests: leaf-first LRU over shared blocks, and LRU over whole sequences, which is what mlx-lm's cache would be with
a byte limit, recency counted on use, and no copy ever made twice. Budgets are shares of the trace's distinct tokens.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache_payload import EmptyPayload, layer
from benchmarks.report import Report, arguments, parse
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


def draw(axes: Any, rows: list[list[float]], limit: float) -> None:
    """Hit rate against budget."""
    shares = [100 * row[0] for row in rows]
    sides = ("mlx_cache: value per byte", "mlx_cache: leaf LRU", "whole-sequence LRU")
    for column, (label, mark) in enumerate(zip(sides, ("o-", "s--", "^:"), strict=True), start=1):
        axes.semilogx(shares, [row[column] for row in rows], mark, label=label)
    axes.axhline(limit, color="grey", linewidth=0.8, label="no limit")
    axes.set_xticks(shares, [f"{share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set(xlabel="budget, share of the distinct tokens", ylabel="prompt tokens from cache")


def compare(requests: list[Request], share: float, distinct: int) -> list[float]:
    """The share, and the hit rates of the cache, of leaf LRU and of whole sequences."""
    budget = int(distinct * share) * BLOCK
    ours = [replay(requests, budget, policy) for policy in (ValuePerByte(), LeafLru())]
    return [share, *ours, replay_whole_sequences(requests, distinct * share)]


def main() -> None:
    """Replay and report."""
    parser = arguments(__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--requests", type=int, help="only so many, from the start")
    options = parse(parser, requests=500)
    report = Report(options)
    if not options.trace.exists():
        print(f"THE TRACE IS MISSING: no {options.trace}; --help says where it is published", file=sys.stderr)
        report.note("not measured: the trace is missing")
        return
    requests = read(options.trace)[: options.requests]
    distinct = len({block for request in requests for block in request.blocks})
    report.note(f"{len(requests):,} requests, {sum(r.length for r in requests):,} tokens, {distinct:,} distinct blocks")
    start = time.perf_counter()
    limit = replay(requests, 1 << 60, ValuePerByte())
    seconds = time.perf_counter() - start
    report.note(f"no limit {limit:.4f} ({1e3 * seconds / len(requests):.2f} ms a request, all of it)")
    report.note(f"the 10 latest sequences {replay_last_lines(requests, 10):.4f}")
    rows = [compare(requests, share, distinct) for share in BUDGETS]
    report.table(["budget", "mlx_cache", "leaf LRU", "whole sequences"], rows)
    report.plot(lambda axes: draw(axes, rows, limit))


if __name__ == "__main__":
    main()
