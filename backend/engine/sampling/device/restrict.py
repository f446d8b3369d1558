"""`host.restrict` for a whole batch in lazy MLX operations: what a row may not draw becomes -inf.

Nothing of the logits is known when the operations are put together, so which of them a row gets follows from
its settings alone. Only rows that need a sort of the vocabulary get one: a row bounded by top-k gets by with
the few blocks of tokens that have the largest maxima.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from backend.engine.sampling.device.kernels import Kernels
from backend.engine.sampling.device.processors import marks
from backend.engine.sampling.row_sampling import RowSampling

_LARGEST_HEAD = 1024

Rows = Sequence[RowSampling]
Step = Callable[[mx.array, Rows, Kernels], mx.array]


def restricted(logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    """The logits `[rows, vocab]`, processed, with -inf for what is not left; greedy rows keep theirs.

    A row with a NaN, or without a finite logit, gets numbers without meaning.
    """
    vocab = logits.shape[-1]
    draws = [row.sampling.temperature > 0.0 for row in rows]
    bounded = [_is_bounded(row, vocab) for row in rows]

    def apply(step: Step, chosen: Callable[[int, RowSampling], bool], values: mx.array) -> mx.array:
        places = tuple(index for index, row in enumerate(rows) if draws[index] and chosen(index, row))
        return _applied(step, places, values, rows, kernels)

    logits = apply(_within_top_k, lambda index, _: bounded[index], logits)
    logits = apply(_prefix, lambda index, row: not bounded[index] and _has_prefix(row), logits)
    logits = apply(_typical, lambda _, row: row.sampling.typical_p < 1.0, logits)
    logits = apply(_without_top_choices, lambda _, row: row.excludes_top_choices(), logits)
    return apply(_top_k, lambda index, row: not bounded[index] and (row.sampling.top_k or vocab) < vocab, logits)


def head(logits: mx.array, k: int, kernels: Kernels) -> tuple[mx.array, mx.array]:
    """The k largest of each row, largest first, and their ids, both `[rows, k]`; 1 <= k <= vocab.

    The k largest lie in the k blocks with the largest maxima, so only those are sorted.
    """
    rows, vocab = logits.shape
    width = 1 << max(2, round(math.log2(max(1.0, vocab / k)) / 2))
    if 2 * k * width >= vocab:
        ids = mx.argsort(-logits, axis=-1)[:, :k]
        return mx.take_along_axis(logits, ids, axis=-1), ids
    blocks = -(-vocab // width)
    padded = mx.pad(logits, [(0, 0), (0, blocks * width - vocab)], constant_values=-math.inf)
    padded = padded.reshape(rows, blocks, width)
    best = mx.sort(mx.argsort(-padded.max(axis=-1), axis=-1)[:, :k], axis=-1)
    found = mx.take_along_axis(padded, best[..., None], axis=1).reshape(rows, k * width)
    widths = kernels.column((width,), mx.uint32)[None]
    ids = kernels.numbered(best[..., None], widths, kernels.numbers(width)[None]).reshape(rows, k * width)
    order = mx.argsort(-found, axis=-1)[:, :k]
    return mx.take_along_axis(found, order, axis=-1), mx.take_along_axis(ids, order, axis=-1)


def _applied(step: Step, places: tuple[int, ...], logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    """The logits with the step applied to the rows at these places alone."""
    if not places:
        return logits
    if len(places) == len(rows):
        return step(logits, rows, kernels)
    changed = step(logits[kernels.places(places)], [rows[index] for index in places], kernels)
    order = list(range(len(rows)))
    for position, index in enumerate(places):
        order[index] = len(rows) + position
    return mx.concatenate([logits, changed])[kernels.places(tuple(order))]


def _is_bounded(row: RowSampling, vocab: int) -> bool:
    """Whether the row's candidates all are among its k most likely tokens."""
    sampling = row.sampling
    k = sampling.top_k
    return k is not None and k < vocab and k <= _LARGEST_HEAD and _keeps_the_likeliest(row)


def _keeps_the_likeliest(row: RowSampling) -> bool:
    return row.sampling.typical_p >= 1.0 and not row.excludes_top_choices()


def _has_prefix(row: RowSampling) -> bool:
    return row.sampling.top_p < 1.0 or row.sampling.min_p > 0.0


def _within_top_k(logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    largest, ids = head(logits, max(_ks(rows)), kernels)
    return _cut_to_top_k(logits, largest, ids, _prefix_cut(logits, largest, rows, kernels), rows, kernels)


def _prefix(logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    sorts = any(row.sampling.top_p < 1.0 for row in rows)
    largest = -mx.sort(-logits, axis=-1) if sorts else logits.max(axis=-1, keepdims=True)
    return kernels.reaching(logits, _prefix_cut(logits, largest, rows, kernels))


def _prefix_cut(logits: mx.array, largest: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    """The lowest logit that top-p and min-p leave, `[rows, 1]`, given each row's largest logits in order.

    Where the nucleus goes on beyond those given, the least of them.
    """
    log_min_p = tuple(math.log(row.sampling.min_p) if row.sampling.min_p > 0.0 else -math.inf for row in rows)
    top_p = kernels.column(tuple(row.sampling.top_p for row in rows))
    last = largest[:, :1]
    if any(row.sampling.top_p < 1.0 for row in rows):
        probs = kernels.weights_below(largest, mx.logsumexp(logits, axis=-1, keepdims=True))
        before = mx.cumsum(probs, axis=-1, inclusive=False)
        last = mx.min(kernels.within_mass(before, largest, top_p), axis=-1, keepdims=True)
    return kernels.prefix_cut(largest[:, :1], kernels.column(log_min_p), last, top_p)


def _typical(logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    probs = mx.softmax(logits, axis=-1, precise=True)
    peak = logits.max(axis=-1, keepdims=True)
    mean = mx.sum(kernels.surprise(logits, probs, peak), axis=-1, keepdims=True)
    distance = kernels.distance(logits, peak, mean)
    order = mx.argsort(distance, axis=-1)
    before = mx.cumsum(mx.take_along_axis(probs, order, axis=-1), axis=-1, inclusive=False)
    mass = kernels.column(tuple(row.sampling.typical_p for row in rows))
    near = kernels.near(before, mx.take_along_axis(distance, order, axis=-1), mass)
    return kernels.no_farther(logits, distance, mx.max(near, axis=-1, keepdims=True))


def _without_top_choices(logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    threshold = kernels.column(tuple(row.sampling.xtc_threshold for row in rows))
    over = kernels.over(logits, mx.softmax(logits, axis=-1, precise=True), threshold)
    exempt = marks(logits, [row.xtc_exempt for row in rows])
    return kernels.without_top(logits, mx.min(over, axis=-1, keepdims=True), exempt)


def _top_k(logits: mx.array, rows: Rows, kernels: Kernels) -> mx.array:
    largest, ids = head(logits, max(_ks(rows)), kernels)
    none = kernels.column((-math.inf,) * len(rows))
    return _cut_to_top_k(logits, largest, ids, none, rows, kernels)


def _ks(rows: Rows) -> list[int]:
    return [row.sampling.top_k or 1 for row in rows]


def _cut_to_top_k(
    logits: mx.array, largest: mx.array, ids: mx.array, cut: mx.array, rows: Rows, kernels: Kernels
) -> mx.array:
    """Each row's own k of the head; of those that equal the k-th largest, the lowest ids."""
    ks = _ks(rows)
    if min(ks) == max(ks):
        values, last = largest[:, -1:], ids[:, -1:]
    else:
        kth = kernels.column(tuple(k - 1 for k in ks), mx.uint32)
        values, last = (mx.take_along_axis(array, kth, axis=-1) for array in (largest, ids))
    return kernels.in_top_k(logits, kernels.numbers(logits.shape[-1]), values, last, cut)
