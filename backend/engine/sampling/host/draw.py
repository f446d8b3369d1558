"""Drawing one token in proportion to its weight, from a whole vocabulary as cheaply as from forty tokens.

The Gumbel-max trick (the largest of log weight plus Gumbel noise is a draw by weight), in two levels: first a block
of neighbouring ids by the block's weight, then a token within the block. So a draw hashes one number a block and
one a token of a single block, not one a token of the vocabulary, and its result hangs on rounding only where two
scores are as good as equal, which keeps the host's and the device's draws alike.
"""

import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.host.restrict import Candidates
from backend.engine.sampling.noise import BLOCK, BLOCK_BITS, Purpose, gumbel
from backend.engine.sampling.row_sampling import RowSampling


def drawn(candidates: Candidates, row: RowSampling) -> int:
    """One of the candidates, by softmax(logits / temperature) over them."""
    temperature = np.float32(row.sampling.temperature)
    ids = candidates.ids
    if ids is None:
        return _drawn_from_all(candidates, temperature, row)
    # The likeliest may be gone: measured against it, all could underflow at a low temperature.
    scaled = (candidates.found - candidates.found.max()) / temperature
    blocks = ids >> BLOCK_BITS
    begins = np.empty(len(blocks), np.bool_)
    begins[0] = True
    np.not_equal(blocks[1:], blocks[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    chosen = _block(np.add.reduceat(np.exp(scaled), starts), blocks[starts], row)
    end = starts[chosen + 1] if chosen + 1 < len(starts) else len(ids)
    inside = slice(starts[chosen], end)
    return _token(scaled[inside], ids[inside], row)


def _drawn_from_all(candidates: Candidates, temperature: np.float32, row: RowSampling) -> int:
    logits, cut = candidates.logits, candidates.cut
    peak = logits.max()
    weights = logits - peak
    weights /= temperature
    np.exp(weights, out=weights)
    if cut > -np.inf:
        weights *= logits >= cut
    even = len(weights) >> BLOCK_BITS << BLOCK_BITS
    sums = weights[:even].reshape(-1, BLOCK).sum(axis=1)
    if even < len(weights):
        sums = np.append(sums, weights[even:].sum(keepdims=True))
    first = _block(sums, np.arange(len(sums)), row) * BLOCK
    inside = logits[first : first + BLOCK]
    scaled = np.where(inside >= cut, (inside - peak) / temperature, np.float32(-np.inf))
    return _token(scaled, np.arange(first, first + len(inside)), row)


def _block(sums: NDArray[np.floating], blocks: NDArray[np.int64], row: RowSampling) -> int:
    with np.errstate(divide="ignore"):
        scores = np.log(sums.astype(np.float64))
    return int((scores + gumbel(blocks, row.key(Purpose.BLOCK))).argmax())


def _token(scaled: NDArray[np.float32], ids: NDArray[np.int64], row: RowSampling) -> int:
    return int(ids[(scaled + gumbel(ids, row.key(Purpose.TOKEN))).argmax()])
