"""Drawing one token in proportion to its weight, from a whole vocabulary as cheaply as from forty tokens.

The Gumbel-max trick (the largest of log weight plus Gumbel noise is a draw by weight), in two levels: first a block
of neighbouring ids by the block's weight, then a token within the block. So a draw hashes one number a block and
one a token of a single block, not one a token of the vocabulary, and its result hangs on rounding only where two
scores are as good as equal, which keeps the host's and the device's draws alike.
"""

import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.noise import Purpose, gumbel
from backend.engine.sampling.rows import RowSampling

BLOCK = 256
_ONES = np.ones(BLOCK, np.float32)


def drawn(
    logits: NDArray[np.float32],
    peak: np.float32,
    ids: NDArray[np.int64] | None,
    row: RowSampling,
) -> int:
    """One token of `ids` (ascending, at least one; None for all) by softmax(logits / temperature).

    Args:
        logits: `[vocab]`, after all edits, no NaN.
        peak: The largest of them.
    """
    if ids is None:
        return _drawn_from_all(logits, peak, row)
    found = logits[ids]
    scaled = (found - found.max()) / np.float32(row.sampling.temperature)
    blocks = ids // BLOCK
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    chosen = _block(np.add.reduceat(np.exp(scaled), starts), blocks[starts], row)
    end = starts[chosen + 1] if chosen + 1 < len(starts) else len(ids)
    inside = slice(starts[chosen], end)
    return _token(scaled[inside], ids[inside], row)


def _drawn_from_all(
    logits: NDArray[np.float32], peak: np.float32, row: RowSampling
) -> int:
    temperature = np.float32(row.sampling.temperature)
    weights = logits - peak
    weights /= temperature
    np.exp(weights, out=weights)
    even = len(weights) // BLOCK * BLOCK
    sums = weights[:even].reshape(-1, BLOCK) @ _ONES
    if even < len(weights):
        sums = np.append(sums, weights[even:].sum())
    first = _block(sums, np.arange(len(sums)), row) * BLOCK
    inside = logits[first : first + BLOCK]
    return _token(
        (inside - peak) / temperature, np.arange(first, first + len(inside)), row
    )


def _block(
    sums: NDArray[np.float32], blocks: NDArray[np.int64], row: RowSampling
) -> int:
    with np.errstate(divide="ignore"):
        scores = np.log(sums.astype(np.float64))
    return int(np.argmax(scores + gumbel(blocks, row.key(Purpose.BLOCK))))


def _token(
    scaled: NDArray[np.float32], ids: NDArray[np.int64], row: RowSampling
) -> int:
    return int(
        ids[np.argmax(scaled.astype(np.float64) + gumbel(ids, row.key(Purpose.TOKEN)))]
    )
