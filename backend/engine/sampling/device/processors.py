"""Bias, penalties and masks for a whole batch in lazy MLX operations."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.device.kernels import Kernels
from backend.engine.sampling.row_sampling import RowSampling, within


def processed(logits: mx.array, rows: Sequence[RowSampling], kernels: Kernels) -> mx.array:
    """The logits `[rows, vocab]` after every row's processors; the given array itself where there are none."""
    vocab = logits.shape[-1]
    masks = [row.allowed() for row in rows]
    logits = _biased(logits, rows)
    if any(row.window is not None for row in rows):
        logits = _penalised(logits, rows, kernels)
    forbidden = [within(row.eos_ids, vocab) if row.forbids_eos() else row.eos_ids[:0] for row in rows]
    if any(len(ids) for ids in forbidden):
        logits = logits.at[_places(forbidden)].minimum(-mx.inf)
    if any(mask is not None for mask in masks):
        logits = mx.minimum(logits, _limits(masks, vocab, kernels))
    return logits


def _places(lists: Sequence[NDArray[np.int64]]) -> tuple[mx.array, mx.array]:
    """Row and column of every id in the rows' lists, both `[n]`."""
    rows = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists])
    return mx.array(rows.astype(np.uint32)), mx.array(np.concatenate(lists).astype(np.uint32))


def marks(logits: mx.array, lists: Sequence[NDArray[np.int64]]) -> mx.array:
    """int32 like the logits: not 0 at each row's ids; ids beyond the vocabulary are left out."""
    vocab = logits.shape[-1]
    return mx.zeros(logits.shape, mx.int32).at[_places([within(ids, vocab) for ids in lists])].add(1)


def _biased(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    if not any(len(row.bias_ids) for row in rows):
        return logits
    values = mx.array(np.concatenate([row.bias_values for row in rows]))
    return logits.at[_places([row.bias_ids for row in rows])].add(values)


def _penalised(logits: mx.array, rows: Sequence[RowSampling], kernels: Kernels) -> mx.array:
    return kernels.penalised(
        logits,
        _counts(logits.shape, rows),
        kernels.column(tuple(row.sampling.repetition_penalty for row in rows)),
        kernels.column(tuple(row.sampling.presence_penalty for row in rows)),
        kernels.column(tuple(row.sampling.frequency_penalty for row in rows)),
    )


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
        # The window may be narrower than what is ahead.
        size = row.sampling.penalty_window
        ahead = list(row.drawn_ahead) if size is None else list(row.drawn_ahead)[max(0, len(row.drawn_ahead) - size) :]
        drafted = [tokens[place] for tokens, place in ahead if not isinstance(tokens, mx.array)]
        ids, counts = np.append(ids, drafted).astype(np.int64), np.append(counts, [1] * len(drafted))
        inside = ids < shape[-1]
        known.append((ids[inside], counts[inside]))
        for tokens, place in ahead:
            if isinstance(tokens, mx.array):
                coming_rows.append(index)
                coming.append(tokens[place])
    numbers = mx.array(np.concatenate([counts for _, counts in known]).astype(np.float32))
    total = mx.zeros(shape, mx.float32).at[_places([ids for ids, _ in known])].add(numbers)
    if not coming:
        return total
    return total.at[mx.array(coming_rows, mx.uint32), mx.stack(coming)].add(1.0)


def _limits(masks: Sequence[NDArray[np.uint32] | None], vocab: int, kernels: Kernels) -> mx.array:
    """Upper limits `[rows, vocab]` from bit masks; rows without one have none, bits that a mask lacks are not set."""
    words = np.zeros((len(masks), -(-vocab // 32), 1), np.uint32)
    for index, mask in enumerate(masks):
        if mask is None:
            words[index] = 0xFFFFFFFF
        else:
            width = min(len(mask), words.shape[1])
            words[index, :width, 0] = mask[:width]
    limits = kernels.limits(mx.array(words), kernels.numbers(32)[None])
    return limits.reshape(len(masks), -1)[:, :vocab]
