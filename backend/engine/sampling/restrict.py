"""Which tokens a row may draw from: top-p, min-p, typical-p, XTC, top-k, in this order, on untempered logits.

The order and the formulas are those of `mlx_lm.sample_utils.make_sampler`. Typical-p, which mlx-lm lacks, is
Meister et al., "Locally typical sampling" (2023), on what the first two left.
"""

import math

import numpy as np
from numpy.typing import NDArray

from backend.core.request import Sampling
from backend.engine.sampling.edits import within
from backend.engine.sampling.rows import RowSampling
from backend.engine.sampling.selection import largest, nucleus_cut

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


def restricted(logits: Logits, peak: np.float32, row: RowSampling) -> Ids | None:
    """Ids that the row may draw from, ascending, at least one; None for every token.

    Args:
        logits: `[vocab]`, after all edits, no NaN.
        peak: Their largest, finite.
    """
    sampling = row.sampling
    if sampling.typical_p >= 1.0 and not row.excludes_top_choices():
        if sampling.top_k is not None and sampling.top_k < len(logits):
            return _within_top_k(logits, peak, sampling, sampling.top_k)
        return _above_cut(logits, peak, sampling)
    return _step_by_step(logits, peak, row)


def _within_top_k(logits: Logits, peak: np.float32, sampling: Sampling, k: int) -> Ids:
    """Top-p, min-p and top-k. All three keep the most likely, so top-k, the cheapest, can go first."""
    ids = largest(logits, k)
    found = logits[ids]
    cut = _min_p_cut(peak, sampling)
    if sampling.top_p < 1.0:
        mass = sampling.top_p * float(_weights(logits, peak).sum())
        # The nucleus of the k alone, filled to the same mass: complete, or wider than them.
        cut = max(cut, nucleus_cut(found, _weights(found, peak), mass))
    return ids[found >= cut] if cut > -math.inf else ids


def _above_cut(logits: Logits, peak: np.float32, sampling: Sampling) -> Ids | None:
    """Top-p and min-p; None where both are off."""
    cut = _min_p_cut(peak, sampling)
    if sampling.top_p < 1.0:
        weights = _weights(logits, peak)
        cut = max(
            cut, nucleus_cut(logits, weights, sampling.top_p * float(weights.sum()))
        )
    return np.flatnonzero(logits >= cut) if cut > -math.inf else None


def _step_by_step(logits: Logits, peak: np.float32, row: RowSampling) -> Ids:
    sampling = row.sampling
    ids = _above_cut(logits, peak, sampling)
    ids = (
        np.flatnonzero(logits > -np.inf) if ids is None else ids[logits[ids] > -np.inf]
    )
    if sampling.typical_p < 1.0:
        ids = _typical(logits, ids, peak, sampling.typical_p)
    if row.excludes_top_choices():
        ids = _without_top_choices(logits, ids, peak, row)
    if sampling.top_k is not None:
        ids = ids[largest(logits[ids], sampling.top_k)]
    return ids


def _typical(logits: Logits, ids: Ids, peak: np.float32, mass: float) -> Ids:
    """Those whose surprise is nearest to the entropy, until they weigh `mass` together."""
    found = logits[ids]
    weights = _weights(found, peak)
    total = float(weights.sum())
    surprise = (math.log(total) + float(peak)) - found
    entropy = float(np.dot(weights, surprise)) / total
    distance = np.abs(surprise - np.float32(entropy))
    nearness = np.negative(distance, out=distance)
    return ids[nearness >= nucleus_cut(nearness, weights, mass * total)]


def _without_top_choices(
    logits: Logits, ids: Ids, peak: np.float32, row: RowSampling
) -> Ids:
    """Without all tokens over the threshold but the least likely of them (and those that equal it)."""
    found = logits[ids]
    weights = _weights(found, peak)
    over = found[weights > row.sampling.xtc_threshold * weights.sum()]
    if not len(over):
        return ids
    dropped = found > over.min()
    dropped &= ~np.isin(ids, within(row.xtc_exempt, len(logits)))
    return ids[~dropped]


def _min_p_cut(peak: np.float32, sampling: Sampling) -> float:
    return (
        float(peak + np.float32(math.log(sampling.min_p)))
        if sampling.min_p > 0.0
        else -math.inf
    )


def _weights(logits: Logits, peak: np.float32) -> Logits:
    """Likelihoods against the peak's: exp(logits - peak)."""
    weights = logits - peak
    return np.exp(weights, out=weights)
