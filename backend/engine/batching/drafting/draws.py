"""Guesses drawn as the row is going to draw, from the draft model's logits and with the row's own noise."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import mlx.core as mx
import numpy as np

from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import NO_TOKEN

_NO_TOKENS = np.zeros(0, np.int32)


class Draws(Protocol):
    """One token for each row, `[rows]`, always in the vocabulary; each call goes on by a token."""

    def __call__(self, logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
        """From logits `[rows, vocab]`."""
        ...


def look_ahead(row: RowSampling) -> RowSampling:
    """The row's settings at its present place, for draws that leave the row as it is.

    Without its penalties and its grammar, which would have to follow the guesses: guesses that these forbid are wrong.
    """
    plain = replace(row.sampling, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    made = RowSampling(plain, prompt=_NO_TOKENS, eos_ids=frozenset(row.eos_ids.tolist()), top_logprobs=None)
    made.step = row.step
    return made


class HostDraws:
    """Waits for each step's logits."""

    def __init__(self) -> None:
        self._sampler = HostSampler()

    def __call__(self, logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
        """From logits `[rows, vocab]`."""
        sampled = self._sampler.sample(logits, rows)
        for row in rows:
            row.step += 1
        # A row without a token has no guess worth anything, and whatever is fed for it does no harm.
        return mx.array([0 if token == NO_TOKEN else token for token in sampled.tokens])


class DeviceDraws:
    """Waits for nothing."""

    def __init__(self, sampler: DeviceSampler) -> None:
        self._sampler = sampler

    def __call__(self, logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
        """From logits `[rows, vocab]`."""
        return self._sampler.sample_lazy(logits, rows).tokens
