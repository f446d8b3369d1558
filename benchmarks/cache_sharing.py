"""Bytes held against turns: eight chats of three turns on one shared prefix of 4k tokens.

    python -m benchmarks.cache_sharing

Beside the accounted bytes of both caches, what MLX holds (`mx.get_active_memory`), which is the truth. mlx-lm's cache
is given what its server gives it: the rows that `BatchKVCache.extract` returns, here of batches of eight.
"""

from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache, LRUPromptCache
from numpy.typing import NDArray

from benchmarks.report import Report, arguments, parse
from mlx_cache import PromptCache

LAYERS, HEADS, FEATURES = 4, 4, 64
TOKEN_BYTES = LAYERS * 2 * HEADS * FEATURES * 2
CHATS, TURNS, TURN = 8, 3, 200
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


def chats(shared: int, seed: int = 0) -> list[list[NDArray[np.int32]]]:
    """For each turn the eight sequences."""
    rng = np.random.default_rng(seed)
    now = [rng.integers(0, 10**6, shared)] * CHATS
    turns = []
    for _ in range(TURNS):
        now = [np.concatenate([tokens, rng.integers(0, 10**6, TURN)]) for tokens in now]
        turns.append([tokens.astype(np.int32) for tokens in now])
    return turns


def grow(store: Any, shared: int, *, as_list: bool) -> list[tuple[int, int]]:
    """(accounted, held) bytes after every insert; a turn's batch is gone when its bytes are read."""
    before, out = held(), []
    for turn in chats(shared):
        layers = batch(len(turn[0]))
        for row, tokens in enumerate(turn):
            store.insert_cache("m", tokens.tolist() if as_list else tokens, [layer.extract(row) for layer in layers])
        del layers
        out.append((store.nbytes, held() - before))
    return out


def draw(axes: Any, held_mib: dict[str, list[float]]) -> None:
    """Bytes against turns."""
    for (label, values), mark in zip(held_mib.items(), ("o-", "s-", "^:"), strict=True):
        axes.plot(range(1, TURNS + 1), values, mark, label=label)
    axes.set_ylim(bottom=0)
    axes.set(xticks=range(1, TURNS + 1), xlabel=f"turns of each of {CHATS} chats", ylabel="held by MLX, MiB")


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--shared", type=int, default=4096, help="tokens that all chats begin with")
    options = parse(parser, shared=512)
    report = Report(options)
    report.note(f"{CHATS} chats on {options.shared} shared tokens, {TURN} a turn, {TOKEN_BYTES} bytes a token; MiB")
    ours = grow(PromptCache(), options.shared, as_list=False)
    theirs = grow(LRUPromptCache(max_size=1000), options.shared, as_list=True)
    distinct = [(options.shared + CHATS * TURN * turn) * TOKEN_BYTES for turn in range(1, TURNS + 1)]
    rows: list[list[object]] = [
        [turn, least / MIB, mine / MIB, real / MIB, real / least, their / MIB, their_real / MIB]
        for turn, (least, (mine, real), (their, their_real)) in enumerate(
            zip(distinct, ours, theirs, strict=True), start=1
        )
    ]
    report.table(["turns", "distinct", "mlx_cache", "held", "held / distinct", "mlx-lm", "held"], rows)
    lines = {
        "mlx-lm LRUPromptCache": [real / MIB for _, real in theirs],
        "mlx_cache": [real / MIB for _, real in ours],
        "distinct tokens": [least / MIB for least in distinct],
    }
    report.plot(lambda axes: draw(axes, lines))


if __name__ == "__main__":
    main()
