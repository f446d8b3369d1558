"""Rows that decode together against the same rows alone: three of unlike length, a late one, one that leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import mlx.core as mx

from backend.engine.kv.merging import merged
from backend.engine.loading.probe.context import Context, Model, NewCache, evaluate, read, token

# Steps of each of the three phases: two rows, three rows, two rows again.
_STEPS = 2
FLOAT32_TOLERANCE = 1e-3
"""Of the logits' range: a right model stays under 1e-5, a wrong one is over 1e-2."""
# In half precision roundings grow with the model's depth, so the model's own noise is the measure; a single sample
# of it may be small by luck, and what is wrong without any company must not excuse what is wrong in it.
_NOISES = 4.0
HALF = {mx.float16: 1e-2, mx.bfloat16: 3e-2}
"""What roundings may do at least: some steps of the type, which are 1e-3 and 8e-3."""
MOST_IN_COMPANY = 3e-2
"""What they may do at most, however noisy the model: the mildest wrong one that is known is off by 4e-2."""
MOST_IN_PIECES = 0.1
"""The same between one pass and several, where kernels differ and a wrong model is off by the whole range."""

FIRST, SECOND, LATE = range(3)
_ALONE_STEPS = {FIRST: 2 * _STEPS, SECOND: 3 * _STEPS + 1, LATE: 2 * _STEPS}
"""How often each row is fed; the second once more after it was taken out of the batch."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Differences of logits as fractions of their range: the median over a row's steps, of the worst row.

    A median, since one step may be off by much in a right model: roundings decide a tie between two experts.

    Attributes:
        together: Between rows in company and rows alone.
        noise: Between one forward pass over several tokens and as many over one.
    """

    together: float
    noise: float
    dtype: mx.Dtype

    @property
    def tolerance(self) -> float:
        """What roundings may do."""
        if self.dtype not in HALF:
            return FLOAT32_TOLERANCE
        return min(MOST_IN_COMPANY, max(HALF[self.dtype], _NOISES * self.noise))


def compare(model: Model, new_cache: NewCache, contexts: Sequence[Context]) -> Compared:
    """Decode three rows alone and in company. Raises whatever caches that cannot be batched raise."""
    rows = [read(model, new_cache, context) for context in contexts]
    # Before the rows decode alone: a merge copies, and decoding changes the row's own caches.
    first, late = merge([rows[FIRST], rows[SECOND]]), merge([rows[LATE]])
    evaluate(first)
    evaluate(late)
    alone = [decode(model, caches, contexts[row], _ALONE_STEPS[row]) for row, caches in enumerate(rows)]
    together = _together(model, first, late, contexts)
    worst = max(median(differences(ours, theirs)) for ours, theirs in zip(together, alone, strict=True))
    noise = median(pieces(model, new_cache, contexts[SECOND], alone[SECOND]))
    return Compared(worst, noise, alone[FIRST].dtype)


def pieces(model: Model, new_cache: NewCache, context: Context, alone: mx.array) -> list[float]:
    """How far the logits of one pass over several tokens are from `alone`, those of as many passes over one."""
    fed = [token(context.seed, step) for step in range(len(alone))]
    return differences(model(mx.array([fed]), cache=read(model, new_cache, context))[0], alone)


def decode(model: Model, caches: list[Any], context: Context, steps: int, *, start: int = 0) -> mx.array:
    """Logits `[steps, vocab]` of a lone row that is fed its own tokens; `start` of them it has had already."""
    fed = [token(context.seed, step) for step in range(start, start + steps)]
    out = mx.stack([model(mx.array([[one]]), cache=caches)[0, -1] for one in fed])
    mx.eval(out)
    return out


def merge(rows: Sequence[list[Any]]) -> list[Any]:
    """Batch caches of single-row caches, layer by layer."""
    return [merged(layers) for layers in zip(*rows, strict=True)]


def _together(model: Model, batch: list[Any], late: list[Any], contexts: Sequence[Context]) -> list[mx.array]:
    logits: list[list[mx.array]] = [[], [], []]

    def step(*rows: int) -> None:
        fed = [[token(contexts[row].seed, len(logits[row]))] for row in rows]
        out = model(mx.array(fed), cache=batch)[:, -1]
        evaluate(batch)
        for place, row in enumerate(rows):
            logits[row].append(out[place])

    for _ in range(_STEPS):
        step(FIRST, SECOND)
    for mine, theirs in zip(batch, late, strict=True):
        mine.extend(theirs)
    for _ in range(_STEPS):
        step(FIRST, SECOND, LATE)
    for cache in batch:
        cache.filter([SECOND, LATE])
    for _ in range(_STEPS):
        step(SECOND, LATE)
    # As the prompt cache takes a row out of its batch.
    taken = [cache.extract(0) for cache in batch]
    logits[SECOND].append(decode(model, taken, contexts[SECOND], 1, start=len(logits[SECOND]))[0])
    return [mx.stack(steps) for steps in logits]


def differences(ours: mx.array, theirs: mx.array) -> list[float]:
    """For each step the largest difference as a fraction of the range; NaN and new infinities count as infinite."""
    ours, theirs = ours.astype(mx.float32), theirs.astype(mx.float32)
    # Some models ban tokens by an infinity of their own.
    finite = mx.isfinite(theirs)
    high = mx.max(mx.where(finite, theirs, -mx.inf), axis=-1)
    low = mx.min(mx.where(finite, theirs, mx.inf), axis=-1)
    apart = mx.where(finite, mx.abs(ours - theirs), mx.where(ours == theirs, 0.0, mx.inf))
    worst = mx.max(mx.where(mx.isnan(apart), mx.inf, apart), axis=-1) / mx.maximum(high - low, 1e-6)
    return [float(value) for value in worst.tolist()]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
