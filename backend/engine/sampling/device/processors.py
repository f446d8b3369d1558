"""`edits` for a whole batch in lazy MLX operations."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.row_sampling import RowSampling, within


def processed(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """The logits `[rows, vocab]` after every row's processors; a row without any keeps its numbers."""
    vocab = logits.shape[-1]
    masks = [row.allowed() for row in rows]
    logits = _biased(logits, rows)
    if any(row.window is not None for row in rows):
        logits = _penalised(logits, rows)
    forbidden = [within(row.eos_ids, vocab) if row.forbids_eos() else row.eos_ids[:0] for row in rows]
    if any(len(ids) for ids in forbidden):
        logits = mx.where(_marked(logits.shape, forbidden), -mx.inf, logits)
    if any(mask is not None for mask in masks):
        logits = mx.where(_allowed(masks, vocab), logits, -mx.inf)
    return logits


def _places(lists: Sequence[NDArray[np.int64]]) -> tuple[mx.array, mx.array]:
    """Row and column of every id in the rows' lists, both `[n]`."""
    rows = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists])
    return mx.array(rows.astype(np.uint32)), mx.array(np.concatenate(lists).astype(np.uint32))


def _marked(shape: tuple[int, ...], lists: Sequence[NDArray[np.int64]]) -> mx.array:
    """bool `[rows, vocab]`: true at each row's ids."""
    return mx.zeros(shape, mx.int32).at[_places(lists)].add(1) > 0


def marked(logits: mx.array, lists: Sequence[NDArray[np.int64]]) -> mx.array:
    """bool like the logits: true at each row's ids; ids beyond the vocabulary are left out."""
    return _marked(logits.shape, [within(ids, logits.shape[-1]) for ids in lists])


def _biased(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    if not any(len(row.bias_ids) for row in rows):
        return logits
    values = mx.array(np.concatenate([row.bias_values for row in rows]))
    return logits.at[_places([row.bias_ids for row in rows])].add(values)


def _penalised(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    counts = _counts(logits.shape, rows)
    seen = counts > 0
    penalty = _column(row.sampling.repetition_penalty for row in rows)
    presence = _column(row.sampling.presence_penalty for row in rows)
    frequency = _column(row.sampling.frequency_penalty for row in rows)
    repeated = mx.where(logits < 0, logits * penalty, logits / penalty)
    return mx.where(seen, repeated - presence - frequency * counts, logits)


def _counts(shape: tuple[int, ...], rows: Sequence[RowSampling]) -> mx.array:
    """How often each token stands in each row's window, tokens still to come included; float32 `[rows, vocab]`."""
    known: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    coming_rows: list[int] = []
    coming: list[Any] = []
    for index, row in enumerate(rows):
        if row.window is None:
            known.append((np.empty(0, np.int64), np.empty(0, np.int64)))
            continue
        ids, counts = row.window.counts_before(len(row.drawn_ahead))
        inside = ids < shape[-1]
        known.append((ids[inside], counts[inside]))
        # The window may be narrower than what is ahead.
        size = row.sampling.penalty_window
        ahead = list(row.drawn_ahead) if size is None else list(row.drawn_ahead)[max(0, len(row.drawn_ahead) - size) :]
        for tokens, place in ahead:
            coming_rows.append(index)
            coming.append(tokens[place])
    numbers = mx.array(np.concatenate([counts for _, counts in known]).astype(np.float32))
    total = mx.zeros(shape, mx.float32).at[_places([ids for ids, _ in known])].add(numbers)
    if not coming:
        return total
    return total.at[mx.array(coming_rows, mx.uint32), mx.stack(coming)].add(1.0)


def _column(values: Any) -> mx.array:
    return mx.array(list(values), mx.float32)[:, None]


def _allowed(masks: Sequence[NDArray[np.uint32] | None], vocab: int) -> mx.array:
    """bool `[rows, vocab]` from bit masks; rows without one are all true, bits that a mask lacks are false."""
    words = np.zeros((len(masks), -(-vocab // 32)), np.uint32)
    for index, mask in enumerate(masks):
        if mask is None:
            words[index] = 0xFFFFFFFF
        else:
            width = min(len(mask), words.shape[1])
            words[index, :width] = mask[:width]
    bits = (mx.array(words)[..., None] >> mx.arange(32, dtype=mx.uint32)) & mx.array(1, mx.uint32)
    return bits.reshape(len(masks), -1)[:, :vocab] > 0
