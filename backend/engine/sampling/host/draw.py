"""Drawing a token in proportion to its weight, from a whole vocabulary as cheaply as from forty tokens.

The Gumbel-max trick (the largest of log weight plus Gumbel noise is a draw by weight), in two levels: first a block
of neighbouring ids by the block's weight, then a token within the block. So a draw hashes one number a block and
one a token of a single block, not one a token of the vocabulary, and its result hangs on rounding only where two
scores are as good as equal, which keeps the host's and the device's draws alike.

The rows of a step are hashed together: for one row alone, calling numpy costs more than its arithmetic. Each number
comes from its own index and key, so no row's draw depends on the others'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.host.restrict import Candidates
from backend.engine.sampling.noise import BLOCK, BLOCK_BITS, Key, Purpose, gumbel
from backend.engine.sampling.row_sampling import RowSampling

# A block that weighs nothing is never drawn: its noise is at most 22.9, the heaviest block's log weight at least 0.
_NOTHING = np.float64(1e-300)


def drawn(rows: Sequence[tuple[Candidates, RowSampling]]) -> list[int]:
    """For each row one of its candidates, by softmax(logits / temperature) over them."""
    if not rows:
        return []
    weighed = [_weighed(candidates, row) for candidates, row in rows]
    keys = [row.key(Purpose.BLOCK) for _, row in rows]
    scores = [np.log(np.maximum(row.sums, _NOTHING, dtype=np.float64)) for row in weighed]
    chosen = _noisiest(scores, [row.blocks for row in weighed], keys)
    inside = [row.inside(block) for row, block in zip(weighed, chosen, strict=True)]
    keys = [row.key(Purpose.TOKEN) for _, row in rows]
    places = _noisiest([scaled for scaled, _ in inside], [ids for _, ids in inside], keys)
    return [int(ids[place]) for (_, ids), place in zip(inside, places, strict=True)]


def _noisiest(
    scores: Sequence[NDArray[np.floating]], indices: Sequence[NDArray[np.int64]], keys: Sequence[Key]
) -> list[int]:
    """For each row the place of its largest score after noise."""
    if len(scores) == 1:
        return [int((scores[0] + gumbel(indices[0], keys[0])).argmax())]
    lengths = [len(row) for row in scores]
    low, high = np.array(keys, np.uint32).T.repeat(lengths, axis=1)
    noisy = np.concatenate(scores) + gumbel(np.concatenate(indices), (low, high))
    ends = np.cumsum(lengths).tolist()
    return [int(noisy[end - length : end].argmax()) for end, length in zip(ends, lengths, strict=True)]


@dataclass(frozen=True, slots=True)
class _Listed:
    """Candidates by their ids, weighed by block.

    Attributes:
        scaled: (logit - largest) / temperature of each, `[n]`.
        starts: Where each block begins in them.
        sums: Each block's weight, `[blocks]`.
    """

    scaled: NDArray[np.float32]
    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    blocks: NDArray[np.int64]
    sums: NDArray[np.floating]

    def inside(self, chosen: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids of the tokens of a block."""
        end = self.starts[chosen + 1] if chosen + 1 < len(self.starts) else len(self.ids)
        inside = slice(self.starts[chosen], end)
        return self.scaled[inside], self.ids[inside]


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole vocabulary, weighed by block; attributes as `_Listed` has them."""

    candidates: Candidates
    peak: np.float32
    temperature: np.float32
    blocks: NDArray[np.int64]
    sums: NDArray[np.floating]

    def inside(self, chosen: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids of the tokens of a block."""
        first = chosen * BLOCK
        inside = self.candidates.logits[first : first + BLOCK]
        scaled = (inside - self.peak) / self.temperature
        ids = np.arange(first, first + len(inside))
        return np.where(inside >= self.candidates.cut, scaled, np.float32(-np.inf)), ids


def _weighed(candidates: Candidates, row: RowSampling) -> _Listed | _Whole:
    temperature = np.float32(row.sampling.temperature)
    ids = candidates.ids
    if ids is None:
        return _weighed_whole(candidates, temperature)
    # The likeliest may be gone: measured against it, all could underflow at a low temperature.
    scaled = (candidates.found - candidates.found.max()) / temperature
    blocks = ids >> BLOCK_BITS
    begins = np.empty(len(blocks), np.bool_)
    begins[0] = True
    np.not_equal(blocks[1:], blocks[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    return _Listed(scaled, ids, starts, blocks[starts], np.add.reduceat(np.exp(scaled), starts))


def _weighed_whole(candidates: Candidates, temperature: np.float32) -> _Whole:
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
    return _Whole(candidates, peak, temperature, np.arange(len(sums)), sums)
