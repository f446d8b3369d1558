"""Bytes held against turns: eight chats of three turns on one shared prefix of 4k tokens.

    python -m benchmarks.cache_sharing

Beside the accounted bytes of both caches, what MLX holds (`mx.get_active_memory`), which is the truth. mlx-lm's cache
is given what its server gives it: the rows that `BatchKVCache.extract` returns, here of batches of eight.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache, LRUPromptCache
from numpy.typing import NDArray

from mlx_cache import PromptCache

LAYERS, HEADS, FEATURES = 4, 4, 64
TOKEN_BYTES = LAYERS * 2 * HEADS * FEATURES * 2
CHATS, TURNS, SHARED, TURN = 8, 3, 4096, 200
MIB = 2**20


def held() -> int:
    """Bytes that MLX holds now."""
    gc.collect()
    return mx.get_active_memory()


def batch(tokens: int) -> list[BatchKVCache]:
    """The layers of a batch of eight rows, as decoding leaves them."""
    layers = []
    for _ in range(LAYERS):
        layer = BatchKVCache([0] * CHATS)
        shape = (CHATS, HEADS, tokens, FEATURES)
        layer.update_and_fetch(mx.random.normal(shape).astype(mx.float16), mx.random.normal(shape).astype(mx.float16))
        mx.eval(layer.keys, layer.values)
        layers.append(layer)
    return layers


def chats(seed: int = 0) -> list[list[NDArray[np.int32]]]:
    """For each turn the eight sequences."""
    rng = np.random.default_rng(seed)
    now = [rng.integers(0, 10**6, SHARED)] * CHATS
    turns = []
    for _ in range(TURNS):
        now = [np.concatenate([tokens, rng.integers(0, 10**6, TURN)]) for tokens in now]
        turns.append([tokens.astype(np.int32) for tokens in now])
    return turns


def grow(store: Any, *, as_list: bool) -> list[tuple[int, int]]:
    """(accounted, held) bytes after every insert; a turn's batch is gone when its bytes are read."""
    before, out = held(), []
    for turn in chats():
        layers = batch(len(turn[0]))
        for row, tokens in enumerate(turn):
            store.insert_cache("m", tokens.tolist() if as_list else tokens, [layer.extract(row) for layer in layers])
        del layers
        out.append((store.nbytes, held() - before))
    return out


def draw(rows: dict[str, list[float]], path: Path) -> None:
    """Bytes against turns."""
    import matplotlib.pyplot as plt

    plt.figure(figsize=(6, 3.6))
    for (label, values), mark in zip(rows.items(), ("o-", "s-", "^:"), strict=True):
        plt.plot(range(1, TURNS + 1), values, mark, label=label)
    plt.xticks(range(1, TURNS + 1))
    plt.ylim(bottom=0)
    plt.xlabel(f"turns of each of {CHATS} chats")
    plt.ylabel("held by MLX, MiB")
    plt.legend()
    plt.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=90)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/cache-sharing.png"))
    args = parser.parse_args()
    ours = grow(PromptCache(), as_list=False)
    theirs = grow(LRUPromptCache(max_size=1000), as_list=True)
    distinct = [(SHARED + CHATS * TURN * turn) * TOKEN_BYTES for turn in range(1, TURNS + 1)]
    print(f"{CHATS} chats on {SHARED} shared tokens, {TURN} tokens a turn, {TOKEN_BYTES} bytes a token; MiB")
    print(f"{'turns':>6} {'distinct':>9} {'mlx_cache':>10} {'held':>8} {'ratio':>6} {'mlx-lm':>8} {'held':>8}")
    for turn, (least, (mine, real), (their, their_real)) in enumerate(
        zip(distinct, ours, theirs, strict=True), start=1
    ):
        print(
            f"{turn:6} {least / MIB:9.1f} {mine / MIB:10.1f} {real / MIB:8.1f} {real / least:6.3f} "
            f"{their / MIB:8.1f} {their_real / MIB:8.1f}"
        )
    rows = {
        "mlx-lm LRUPromptCache": [real / MIB for _, real in theirs],
        "mlx_cache": [real / MIB for _, real in ours],
        "distinct tokens": [least / MIB for least in distinct],
    }
    draw(rows, args.plot)


if __name__ == "__main__":
    main()
