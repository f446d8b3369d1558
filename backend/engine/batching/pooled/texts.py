"""Which texts are embedded together, and what becomes of their hidden states. Pure, but for lazy MLX in `picked`."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.core.pooled import Pooling

# Of a batch's tokens, those that are no padding, at least: what is less costs more than it saves.
LEAST_FILLED = 0.8


def plan_batch(lengths: Sequence[int], most_tokens: int) -> list[int]:
    """Which texts run together: the first, and of the others those whose lengths are nearest to its.

    Args:
        lengths: Tokens of each text that waits, in the order in which they are due.
        most_tokens: Of the batch, padding included; a first text that is longer runs alone.
    """
    chosen, longest, filled = [0], lengths[0], lengths[0]
    by_distance = sorted(range(1, len(lengths)), key=lambda index: abs(lengths[index] - lengths[0]))
    for index in by_distance:
        length = lengths[index]
        size = (len(chosen) + 1) * max(longest, length)
        if size <= most_tokens and filled + length >= LEAST_FILLED * size:
            chosen.append(index)
            longest, filled = max(longest, length), filled + length
    return chosen


def padded(texts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Rows of one length, padded on the right: causal layers never look there."""
    rows = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


def picked(hidden: mx.array, pooling: Pooling) -> mx.array:
    """What is needed of the hidden states `[n, width]` of a text's piece: float32, `[1, width]` or `[n, width]`."""
    if pooling == "last":
        return hidden[-1:].astype(mx.float32)
    numbers = hidden.astype(mx.float32)
    return numbers if pooling == "none" else numbers.sum(axis=0, keepdims=True)


def pooled(
    pieces: Sequence[NDArray[np.float32]], length: int, pooling: Pooling, *, normalize: bool
) -> NDArray[np.float32]:
    """The vectors of a text of `length` tokens, from what was picked of its pieces: float32, `[1 or n, width]`."""
    if pooling == "last":
        vectors = pieces[-1]
    elif pooling == "mean":
        vectors = (np.concatenate(pieces).sum(axis=0, dtype=np.float64, keepdims=True) / length).astype(np.float32)
    else:
        vectors = np.concatenate(pieces)
    return normalized(vectors) if normalize else vectors


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
