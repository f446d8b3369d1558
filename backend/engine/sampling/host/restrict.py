"""The restrictions of a row's draw: top-p, min-p, typical-p, XTC, top-k, in this order, on untempered logits.

The order and the formulas are those of `mlx_lm.sample_utils.make_sampler`. Typical-p, which mlx-lm lacks, is
Meister et al., "Locally typical sampling" (2023), on what the first two left.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backend.core.request import Sampling
from backend.engine.sampling.row_sampling import RowSampling, within
from backend.engine.sampling.selection import largest, nucleus_cut

# Where more than one token in so many is left, whole arrays cost less than lists of ids.
_DENSE_SHARE = 16


@dataclass(frozen=True)
class Candidates:
    """The tokens that a row may draw from, at least one.

    Attributes:
        logits: `[vocab]`, no NaN; -inf is never drawn.
        peak: A finite number that none of them exceeds.
        ids: The candidates, ascending, none of them -inf; None for all whose logit is at least `cut`.
        cut: Without meaning where there are ids.
    """

    logits: NDArray[np.float32]
    peak: np.float32
    ids: NDArray[np.int64] | None = None
    cut: float = -math.inf

    @cached_property
    def found(self) -> NDArray[np.float32]:
        """The logits of `ids`, or all, `[n]`."""
        return self.logits if self.ids is None else self.logits[self.ids]

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """exp(found - peak), 0 under the cut, `[n]`."""
        weights = self.found - self.peak
        np.exp(weights, out=weights)
        if self.ids is None and self.cut > -math.inf:
            weights *= self.logits >= self.cut
        return weights

    def above(self, cut: float) -> "Candidates":
        """Of all tokens, those whose logit is at least `cut`."""
        if cut == -math.inf:
            return self
        reaches = self.logits >= cut
        if np.count_nonzero(reaches) * _DENSE_SHARE > len(self.logits):
            return Candidates(self.logits, self.peak, cut=cut)
        return self.only(np.flatnonzero(reaches))

    def only(self, ids: NDArray[np.int64]) -> "Candidates":
        """Those ids alone."""
        return Candidates(self.logits, self.peak, ids=ids)

    def listed(self) -> "Candidates":
        """The same with ids, unless none at all is missing."""
        if self.ids is not None or self.logits.min() >= max(self.cut, -np.finfo(np.float32).max):
            return self
        return self.only(np.flatnonzero((self.logits >= self.cut) & (self.logits > -np.inf)))


def restricted(logits: NDArray[np.float32], peak: np.float32, row: RowSampling) -> Candidates:
    """What the row may draw from.

    Args:
        logits: `[vocab]`, after all edits, no NaN.
        peak: Their largest, finite.
    """
    sampling = row.sampling
    everything = Candidates(logits, peak)
    excludes = row.excludes_top_choices()
    k = sampling.top_k if sampling.top_k is not None and sampling.top_k < len(logits) else None
    if k is not None and sampling.typical_p >= 1.0 and not excludes:
        return _prefix_of_top_k(everything, sampling, k)
    left = _prefix(everything, sampling)
    if sampling.typical_p < 1.0:
        left = _typical(left.listed(), sampling.typical_p)
    if excludes:
        left = _without_top_choices(left, row)
    return left if k is None else _top_k(left, k)


def _prefix_of_top_k(everything: Candidates, sampling: Sampling, k: int) -> Candidates:
    """Top-p, min-p and top-k. All three keep the most likely, so top-k, the cheapest, can go first."""
    left = _top_k(everything, k)
    cut = _min_p_cut(everything.peak, sampling)
    if sampling.top_p < 1.0:
        # The nucleus of the k alone, filled to the mass of all: the same, or wider than them.
        mass = sampling.top_p * float(everything.weights.sum())
        cut = max(cut, nucleus_cut(left.found, left.weights, mass))
    assert left.ids is not None
    return left.only(left.ids[left.found >= cut]) if cut > -math.inf else left


def _prefix(everything: Candidates, sampling: Sampling) -> Candidates:
    """Top-p and min-p."""
    cut = _min_p_cut(everything.peak, sampling)
    if sampling.top_p < 1.0:
        cut = max(cut, _top_p_cut(everything, sampling.top_p))
    return everything.above(cut)


def _top_p_cut(everything: Candidates, top_p: float) -> float:
    logits, weights = everything.logits, everything.weights
    total = float(weights.sum())
    # All under this together weigh less than half of what the nucleus leaves out, so none of them is in it.
    floor = float(everything.peak) + math.log(0.5 * (1.0 - top_p) * total / len(logits))
    reaches = logits >= floor
    if np.count_nonzero(reaches) * 2 > len(logits):
        return nucleus_cut(logits, weights, top_p * total)
    ids = np.flatnonzero(reaches)
    return nucleus_cut(logits[ids], weights[ids], top_p * total)


def _typical(left: Candidates, mass: float) -> Candidates:
    """Those whose surprise is nearest to the entropy, until they weigh `mass` together.

    Surprise is a constant less the logit and entropy its mean, so their distance is the logit's from its own mean.
    """
    total = float(left.weights.sum())
    below = left.found - left.peak
    below -= np.float32(float((left.weights * below).sum()) / total)
    nearness = np.negative(np.abs(below, out=below), out=below)
    kept = np.flatnonzero(nearness >= nucleus_cut(nearness, left.weights, mass * total))
    return left.only(kept if left.ids is None else left.ids[kept])


def _without_top_choices(left: Candidates, row: RowSampling) -> Candidates:
    """Without all tokens over the threshold but the least likely of them (and those that equal it)."""
    over = np.flatnonzero(left.weights > row.sampling.xtc_threshold * left.weights.sum())
    if not len(over):
        return left
    dropped = over[left.found[over] > left.found[over].min()]
    exempt = within(row.xtc_exempt, len(left.logits))
    if left.ids is not None:
        dropped = dropped[~np.isin(left.ids[dropped], exempt)]
        return left.only(np.delete(left.ids, dropped))
    logits = left.logits.copy()
    logits[dropped[~np.isin(dropped, exempt)]] = -np.inf
    return Candidates(logits, left.peak, cut=left.cut)


def _top_k(left: Candidates, k: int) -> Candidates:
    if left.ids is not None:
        return left.only(left.ids[largest(left.found, k)])
    ids = largest(left.logits, k)
    found = left.logits[ids]
    return left.only(ids[(found >= left.cut) & (found > -np.inf)])


def _min_p_cut(peak: np.float32, sampling: Sampling) -> float:
    return float(peak + np.float32(math.log(sampling.min_p))) if sampling.min_p > 0.0 else -math.inf
