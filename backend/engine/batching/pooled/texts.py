"""Texts to rows, and what becomes of their hidden states. Pure, but for lazy MLX in `picked`."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.core.pooled import Pooling


def padded(texts: Sequence[NDArray[np.int32]], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Rows of one length, padded on the right, where causal layers never look; rows beyond the texts are padding."""
    rows = np.zeros(shape, np.int32)
    for row, text in zip(rows, texts, strict=False):
        row[: len(text)] = text
    return rows


def picked(hidden: mx.array, lengths: Sequence[int], pooling: Pooling) -> mx.array:
    """What is needed of the hidden states `[rows, n, width]` of pieces of texts, in a few launches for all of them.

    Args:
        lengths: Of each piece; what is beyond it, and rows beyond these, are padding.

    Returns:
        float32: the last state or the sum of each piece, `[len(lengths), width]`; with pooling none all states,
        `[rows, n, width]`.
    """
    ends = mx.array(list(lengths))
    if pooling == "last":
        return hidden[mx.arange(len(lengths)), ends - 1].astype(mx.float32)
    numbers = hidden.astype(mx.float32)
    if pooling == "none":
        return numbers
    theirs = mx.arange(hidden.shape[1]) < ends[:, None]
    # Not by a product: padding may be infinite.
    return mx.where(theirs[..., None], numbers[: len(lengths)], 0).sum(axis=1)


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
