"""Finding the largest of many numbers without sorting them all: partial first, exact always."""

import numpy as np
from numpy.typing import NDArray

_SMALL = 1024  # up to here, plain partitions cost less than looking for a bound first
_DEPTH = 64
_HEAD = 256
_BUCKETS = 8192
_BUCKET_RANGE = 32.0
_PIECE = 1 << 14


def largest(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Positions of the k largest of `values` `[n]`, ascending; of equals the first ones. No NaN.

    Args:
        k: 1 or more; n or more gives all.
    """
    if k >= len(values):
        return np.arange(len(values))
    candidates = np.flatnonzero(values >= _lower_bound(values, k))
    found = values[candidates]
    if len(candidates) == k:
        return candidates
    cut = np.partition(found, len(found) - k)[len(found) - k]
    above = found > cut
    # Half of all logits are bfloat16, where equal ones are common: fill up with the lowest positions.
    ties = np.flatnonzero(found == cut)[: k - np.count_nonzero(above)]
    above[ties] = True
    return candidates[above]


def ranked(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Like `largest`, largest first; of equals the first ones first."""
    positions = largest(values, k)
    return positions[np.argsort(-values[positions], kind="stable")]


def nucleus_cut(scores: NDArray[np.floating], weights: NDArray[np.floating], mass: float) -> float:
    """The lowest score in the nucleus: the smallest set of highest scores that together weigh `mass`.

    A score belongs to it when the weights of all strictly earlier ones sum to less than `mass` (mlx-lm's
    `apply_top_p`); everything that equals the lowest score belongs too.

    Args:
        scores: `[n]`, n >= 1, no NaN and none +inf; -inf only with weight 0.
        weights: `[n]`, not negative.
        mass: Above 0, in the unit of the weights.
    """
    head = np.flatnonzero(scores >= _lower_bound(scores, _HEAD)) if len(scores) > _SMALL else np.arange(len(scores))
    if len(head) <= 4 * _HEAD:
        cut, complete = _cut_within(scores[head], weights[head], mass, before=0.0)
        if complete or len(head) == len(scores):
            return cut
    return _bucketed_cut(scores, weights, mass)


def _lower_bound(values: NDArray[np.floating], k: int) -> float:
    """A number that at least k of the values reach, mostly few more.

    The k-th largest of the maxima of disjoint columns is one: k columns reach it.
    """
    depth = min(_DEPTH, len(values) // (4 * k))
    if len(values) <= _SMALL or depth < 2:
        return np.partition(values, len(values) - k)[len(values) - k]
    columns = len(values) // depth
    body = columns * depth
    maxima = values[:body].reshape(depth, columns).max(axis=0)
    return np.partition(maxima, columns - k)[columns - k]


def _cut_within(
    scores: NDArray[np.floating],
    weights: NDArray[np.floating],
    mass: float,
    *,
    before: float,
) -> tuple[float, bool]:
    """The nucleus' lowest score among these, and whether the nucleus surely ends within them.

    Args:
        before: What all higher scores that are not given weigh together.
    """
    order = np.argsort(-scores, kind="stable")
    reached = before + np.cumsum(weights[order], dtype=np.float64)
    last = int(np.searchsorted(reached, mass, side="left"))
    complete = last < len(order)
    return float(scores[order[min(last, len(order) - 1)]]), complete


def _bucketed_cut(scores: NDArray[np.floating], weights: NDArray[np.floating], mass: float) -> float:
    """`nucleus_cut` of a flat distribution: weigh buckets of scores, sort only the one where the mass is reached."""
    bucket, sums = _bucketed(scores, weights)
    reached = np.cumsum(sums)
    # Rounding can leave the sum of all just under a mass of all.
    here = min(int(np.searchsorted(reached, mass, side="left")), _BUCKETS - 1)
    while here and not reached[here] > reached[here - 1]:
        here -= 1
    inside = np.flatnonzero(bucket == here)
    before = float(reached[here - 1]) if here else 0.0
    return _cut_within(scores[inside], weights[inside], mass, before=before)[0]


def _bucketed(
    scores: NDArray[np.floating], weights: NDArray[np.floating]
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Each score's bucket `[n]`, the highest scores in bucket 0, and what each bucket weighs."""
    top = scores.max()
    bucket = np.empty(len(scores), np.uint16)
    sums = np.zeros(_BUCKETS)
    # In pieces: arrays this small stay in the processor's cache, and come from the heap without page faults.
    for start in range(0, len(scores), _PIECE):
        piece = slice(start, start + _PIECE)
        below = top - scores[piece]
        below *= _BUCKETS / _BUCKET_RANGE
        bucket[piece] = np.minimum(below, _BUCKETS - 1, out=below)
        sums += np.bincount(bucket[piece], weights=weights[piece], minlength=_BUCKETS)
    return bucket, sums
