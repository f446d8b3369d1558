"""Replay of a public trace of chat requests: share of the prompt tokens served from cache against the byte budget.

    python -m benchmarks.cache_trace [--trace ../shared/traces/conversation_trace.jsonl]

The trace is the conversation trace that was published with the Mooncake paper (FAST'25), Apache-2.0: the file
FAST25-release/traces/conversation_trace.jsonl of the repository kvcache-ai/Mooncake on GitHub. To redo the README's
row, fetch it and name it:

    git clone --depth 1 https://github.com/kvcache-ai/Mooncake build/Mooncake
    python -m benchmarks.cache_trace --trace build/Mooncake/FAST25-release/traces/conversation_trace.jsonl

Without the trace nothing is measured, which is said on standard error. `--shape agents` replays a made trace instead;
`benchmarks.cache_shapes` has them all.

Each id of the trace stands for a block of 512 tokens. Beside the cache itself, with its own policy, with value per
byte and with leaf LRU, run two simulators on the same requests: LRU over whole sequences, which is what mlx-lm's cache
would be with a byte limit, recency counted on use, and no copy ever made twice; and a policy that knows the future and
evicts the block that is needed last (Belady's, which takes leaves first by itself: no block is needed before the one
above it). Budgets are shares of the trace's distinct tokens.
"""

from __future__ import annotations

import heapq
import json
import math
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from benchmarks.cache_payload import EmptyPayload, layer
from benchmarks.cache_shapes import BLOCK, SHAPES, Request, distinct_blocks, made
from benchmarks.report import Report, arguments, parse
from mlx_cache import CompetingPolicy, EvictionPolicy, LeafLru, PromptCache, ValuePerByte

BUDGETS = (0.02, 0.05, 0.10, 0.20, 0.40)
MARKS = {"mlx_cache": "o-", "value per byte": "x-.", "leaf LRU": "s--", "whole sequences": "^:", "clairvoyant": "k-"}
TRACE = Path("../shared/traces/conversation_trace.jsonl")


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


def replay_clairvoyant(requests: list[Request], max_blocks: int) -> float:
    """Evicts the block whose next use is farthest, of those needed at once the deepest."""
    upcoming: list[list[float]] = []
    following: dict[int, float] = {}
    for number in range(len(requests) - 1, -1, -1):
        upcoming.append([following.get(block, math.inf) for block in requests[number].blocks])
        following.update(dict.fromkeys(requests[number].blocks, number))
    held: dict[int, float] = {}
    farthest: list[tuple[float, int, int]] = []
    asked = served = 0
    for request, needed in zip(requests, reversed(upcoming), strict=True):
        hit = next((i for i, block in enumerate(request.blocks) if block not in held), len(request.blocks))
        served += min(hit * BLOCK, request.length - 1)
        asked += request.length
        for depth, (block, when) in enumerate(zip(request.blocks, needed, strict=True)):
            held[block] = when
            heapq.heappush(farthest, (-when, -depth, block))
        while len(held) > max_blocks:
            when, _, block = heapq.heappop(farthest)
            if held.get(block) == -when:
                del held[block]
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
    for column, (label, mark) in enumerate(MARKS.items(), start=1):
        axes.semilogx(shares, [row[column] for row in rows], mark, label=label)
    axes.axhline(limit, color="grey", linewidth=0.8, label="no limit")
    axes.set_xticks(shares, [f"{share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set(xlabel="budget, share of the distinct tokens", ylabel="prompt tokens from cache")


def compare(requests: list[Request], share: float, distinct: int) -> list[float]:
    """The share, and the hit rates in the order of the table."""
    blocks = int(distinct * share)
    ours = [replay(requests, blocks * BLOCK, policy) for policy in (CompetingPolicy(), ValuePerByte(), LeafLru())]
    others = replay_whole_sequences(requests, distinct * share), replay_clairvoyant(requests, blocks)
    return [share, *ours, *others]


def main() -> None:
    """Replay and report."""
    parser = arguments(__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="a made trace instead")
    parser.add_argument("--requests", type=int, help="only so many, from the start")
    options = parse(parser, requests=500)
    report = Report(options)
    if options.shape is None and not options.trace.exists():
        print(f"THE TRACE IS MISSING: no {options.trace}; --help says where it is published", file=sys.stderr)
        report.note("not measured: the trace is missing")
        return
    requests = (made(options.shape, 0) if options.shape else read(options.trace))[: options.requests]
    distinct = distinct_blocks(requests)
    report.note(f"{len(requests):,} requests, {sum(r.length for r in requests):,} tokens, {distinct:,} distinct blocks")
    start = time.perf_counter()
    limit = replay(requests, 1 << 60, ValuePerByte())
    seconds = time.perf_counter() - start
    report.note(f"no limit {limit:.4f} ({1e3 * seconds / len(requests):.2f} ms a request, all of it)")
    report.note(f"the 10 latest sequences {replay_last_lines(requests, 10):.4f}")
    rows = [compare(requests, share, distinct) for share in BUDGETS]
    report.table(["budget", *MARKS], rows)
    report.plot(lambda axes: draw(axes, rows, limit))


if __name__ == "__main__":
    main()
