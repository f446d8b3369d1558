"""`restrict` for a whole batch in lazy MLX operations: what a row may not draw becomes -inf.

Nothing of the logits is known when the operations are put together, so which of them a row gets follows from
its settings alone. Only rows that need a sort of the vocabulary get one: a row bounded by top-k gets by with
the few blocks of tokens that have the largest maxima.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from backend.engine.sampling.device.processors import marked
from backend.engine.sampling.row_sampling import RowSampling

_LARGEST_HEAD = 1024

Rows = Sequence[RowSampling]
Step = Callable[[mx.array, Rows], mx.array]


def restricted(logits: mx.array, rows: Rows) -> mx.array:
    """The logits `[rows, vocab]` (processed, no NaN, each row's largest finite) with -inf for what is not left."""
    vocab = logits.shape[-1]
    bounded = [_is_bounded(row, vocab) for row in rows]
    logits = _where(logits, rows, bounded, _within_top_k)
    logits = _where(
        logits,
        rows,
        [not b and _has_prefix(row) for b, row in zip(bounded, rows, strict=True)],
        _prefix,
    )
    logits = _where(logits, rows, [row.sampling.typical_p < 1.0 for row in rows], _typical)
    logits = _where(logits, rows, [row.excludes_top_choices() for row in rows], _without_top_choices)
    left = [not b and (row.sampling.top_k or vocab) < vocab for b, row in zip(bounded, rows, strict=True)]
    return _where(logits, rows, left, _top_k)


def head(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
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
    ids = (best[..., None] * width + mx.arange(width, dtype=mx.uint32)).reshape(rows, k * width)
    order = mx.argsort(-found, axis=-1)[:, :k]
    return mx.take_along_axis(found, order, axis=-1), mx.take_along_axis(ids, order, axis=-1)


def _where(logits: mx.array, rows: Rows, chosen: Sequence[bool], step: Step) -> mx.array:
    """The logits with the step applied to the chosen rows alone."""
    places = [index for index, is_chosen in enumerate(chosen) if is_chosen]
    if not places:
        return logits
    if len(places) == len(rows):
        return step(logits, rows)
    changed = step(logits[mx.array(places)], [rows[index] for index in places])
    order = list(range(len(rows)))
    for position, index in enumerate(places):
        order[index] = len(rows) + position
    return mx.concatenate([logits, changed])[mx.array(order)]


def _is_bounded(row: RowSampling, vocab: int) -> bool:
    """Whether the row's candidates all are among its k most likely tokens."""
    sampling = row.sampling
    k = sampling.top_k
    return k is not None and k < vocab and k <= _LARGEST_HEAD and _keeps_the_likeliest(row)


def _keeps_the_likeliest(row: RowSampling) -> bool:
    return row.sampling.typical_p >= 1.0 and not row.excludes_top_choices()


def _has_prefix(row: RowSampling) -> bool:
    return row.sampling.top_p < 1.0 or row.sampling.min_p > 0.0


def _column(values: Sequence[float], dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(list(values), dtype)[:, None]


def _within_top_k(logits: mx.array, rows: Rows) -> mx.array:
    ks = [row.sampling.top_k or 1 for row in rows]
    largest, _ = head(logits, max(ks))
    cut = _prefix_cut(logits, largest, rows)
    kth = mx.take_along_axis(largest, _column(ks, mx.uint32) - 1, axis=-1)
    return mx.where(_in_top_k(logits, kth, ks) & (logits >= cut), logits, -mx.inf)


def _prefix(logits: mx.array, rows: Rows) -> mx.array:
    sorts = any(row.sampling.top_p < 1.0 for row in rows)
    largest = -mx.sort(-logits, axis=-1) if sorts else logits.max(axis=-1, keepdims=True)
    return mx.where(logits >= _prefix_cut(logits, largest, rows), logits, -mx.inf)


def _prefix_cut(logits: mx.array, largest: mx.array, rows: Rows) -> mx.array:
    """The lowest logit that top-p and min-p leave, `[rows, 1]`, given each row's largest logits in order.

    Where the nucleus goes on beyond those given, the least of them.
    """
    log_min_p = [math.log(row.sampling.min_p) if row.sampling.min_p > 0.0 else -math.inf for row in rows]
    cut = largest[:, :1] + _column(log_min_p)
    if all(row.sampling.top_p >= 1.0 for row in rows):
        return cut
    probs = mx.exp(largest - mx.logsumexp(logits, axis=-1, keepdims=True))
    before = mx.cumsum(probs, axis=-1, inclusive=False)
    top_p = _column([row.sampling.top_p for row in rows])
    last = mx.min(mx.where(before < top_p, largest, mx.inf), axis=-1, keepdims=True)
    return mx.maximum(cut, mx.where(top_p < 1.0, last, -mx.inf))


def _typical(logits: mx.array, rows: Rows) -> mx.array:
    left = logits > -mx.inf
    probs = mx.softmax(logits, axis=-1, precise=True)
    below = logits - logits.max(axis=-1, keepdims=True)
    mean = mx.sum(mx.where(left, probs * below, 0.0), axis=-1, keepdims=True)
    distance = mx.where(left, mx.abs(below - mean), mx.inf)
    order = mx.argsort(distance, axis=-1)
    before = mx.cumsum(mx.take_along_axis(probs, order, axis=-1), axis=-1, inclusive=False)
    inside = before < _column([row.sampling.typical_p for row in rows])
    near = mx.take_along_axis(distance, order, axis=-1)
    last = mx.max(mx.where(inside, near, -mx.inf), axis=-1, keepdims=True)
    return mx.where(distance <= last, logits, -mx.inf)


def _without_top_choices(logits: mx.array, rows: Rows) -> mx.array:
    over = mx.softmax(logits, axis=-1, precise=True) > _column([row.sampling.xtc_threshold for row in rows])
    least = mx.min(mx.where(over, logits, mx.inf), axis=-1, keepdims=True)
    exempt = marked(logits, [row.xtc_exempt for row in rows])
    return mx.where((logits > least) & ~exempt, -mx.inf, logits)


def _top_k(logits: mx.array, rows: Rows) -> mx.array:
    ks = [row.sampling.top_k or 1 for row in rows]
    largest, _ = head(logits, max(ks))
    kth = mx.take_along_axis(largest, _column(ks, mx.uint32) - 1, axis=-1)
    return mx.where(_in_top_k(logits, kth, ks), logits, -mx.inf)


def _in_top_k(logits: mx.array, kth: mx.array, ks: Sequence[int]) -> mx.array:
    """bool like the logits, true at k a row; of those that equal the k-th largest `[rows, 1]`, the lowest ids."""
    above = logits > kth
    equal = logits == kth
    room = _column(ks, mx.int32) - mx.sum(above, axis=-1, keepdims=True).astype(mx.int32)
    return above | (equal & (mx.cumsum(equal.astype(mx.int32), axis=-1) <= room))
