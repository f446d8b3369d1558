"""The processors of a row's logits before any restriction: bias, penalties, masks. Formulas are mlx-lm's.

They are those of `mlx_lm.sample_utils.make_logits_processors` over one window: repetition divides a positive logit
and multiplies a negative one, presence subtracts once, frequency once for every occurrence.
"""

import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.row_sampling import RowSampling, within

_INFINITY = np.float32(np.inf)


def processed(logits: NDArray[np.float32], row: RowSampling) -> NDArray[np.float32]:
    """The row's logits `[vocab]` after all edits; the given array itself where there are none, else a new one.

    A grammar that failed leaves its line in `row.error`.
    """
    mask = row.allowed()
    forbids_eos = row.forbids_eos() and len(row.eos_ids) > 0
    if mask is None and not forbids_eos and row.window is None and not len(row.bias_ids):
        return logits
    logits = logits.copy()
    # numpy warns of inf - inf and the like; the caller checks the outcome instead.
    with np.errstate(invalid="ignore", over="ignore"):
        if len(row.bias_ids):
            logits[row.bias_ids] += row.bias_values
        if row.window is not None:
            _penalise(logits, row)
    if forbids_eos:
        logits[within(row.eos_ids, len(logits))] = -_INFINITY
    if mask is not None:
        np.minimum(logits, _limits(mask, len(logits)), out=logits)
    return logits


def _penalise(logits: NDArray[np.float32], row: RowSampling) -> None:
    assert row.window is not None
    sampling = row.sampling
    ids, counts = row.window.counts()
    if len(ids) and ids.max() >= len(logits):
        ids, counts = ids[ids < len(logits)], counts[ids < len(logits)]
    values = logits[ids]
    penalty = np.float32(sampling.repetition_penalty)
    values = np.where(values < 0, values * penalty, values / penalty)
    values -= np.float32(sampling.presence_penalty)
    values -= np.float32(sampling.frequency_penalty) * counts.astype(np.float32)
    logits[ids] = values


def _limits(mask: NDArray[np.uint32], vocab: int) -> NDArray[np.float32]:
    """`[vocab]`: +inf where the bit mask allows a token, -inf where it does not or has no bit.

    As upper limits they forbid without branching (a masked copy takes ten times as long) and let NaN through.
    """
    bits = np.unpackbits(np.ascontiguousarray(mask).view(np.uint8), count=vocab, bitorder="little")
    limits = bits.astype(np.float32)
    limits -= np.float32(0.5)
    limits *= _INFINITY
    return limits
