"""Sampling in lazy MLX operations: what a GPU backend uses, to run a step ahead of the host."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from backend.engine.sampling.device.noise import gumbel
from backend.engine.sampling.device.processors import processed
from backend.engine.sampling.device.restrict import head, restricted
from backend.engine.sampling.noise import BLOCK, Purpose
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import (
    NO_TOKEN,
    NOT_FINITE,
    NOTHING_ALLOWED,
    RowLogprobs,
    Sampled,
)


@dataclass(frozen=True)
class LazySample:
    """A step's draw, not evaluated yet. Belongs to the thread that made it.

    Attributes:
        tokens: uint32 `[rows]`, always in the vocabulary: the next step's input. Without meaning for a row that
            turns out to be in `Sampled.errors`.
        state: int32 `[rows]`: 0 drawn, 1 the logits are not finite, 2 nothing is allowed.
        logprobs: None where no row asked; else the chosen token's `[rows]`, the most likely ids and theirs `[rows, n]`.
        wanted: `RowSampling.top_logprobs` of each row.
        errors: What is known before evaluation.
    """

    tokens: mx.array
    state: mx.array
    logprobs: tuple[mx.array, mx.array, mx.array] | None
    wanted: tuple[int | None, ...]
    errors: dict[int, str]

    def arrays(self) -> list[mx.array]:
        """All that `collect` reads, for `mx.async_eval`."""
        return [self.tokens, self.state, *(self.logprobs or ())]

    def collect(self) -> Sampled:
        """Wait for the draw and read it."""
        tokens: list[int] = np.asarray(self.tokens).tolist()
        sampled = Sampled(tokens=tokens, logprobs=[None] * len(tokens), errors=dict(self.errors))
        for index, state in enumerate(np.asarray(self.state).tolist()):
            if state:
                sampled.errors.setdefault(index, NOT_FINITE if state == 1 else NOTHING_ALLOWED)
        for index in sampled.errors:
            sampled.tokens[index] = NO_TOKEN
        if self.logprobs is not None:
            self._read_logprobs(sampled)
        return sampled

    def _read_logprobs(self, sampled: Sampled) -> None:
        assert self.logprobs is not None
        chosen, ids, top = (np.asarray(array) for array in self.logprobs)
        for index, count in enumerate(self.wanted):
            if count is not None and index not in sampled.errors:
                sampled.logprobs[index] = RowLogprobs(
                    chosen=float(chosen[index]),
                    top_ids=tuple(ids[index, :count].tolist()),
                    top=tuple(top[index, :count].tolist()),
                )


class DeviceSampler:
    """Engine thread only. The same draws as `HostSampler`'s up to float32 rounding. Has no state of its own."""

    def sample_lazy(self, logits: mx.array, rows: Sequence[RowSampling]) -> LazySample:
        """One token for each row, without waiting for anything.

        The tokens become pending in their rows: the next call may follow before they are accepted, except for rows
        where `RowSampling.needs_last_token`. `accept` takes them off in the same order.

        Args:
            logits: `[rows, vocab]`, any float dtype; a lazy array is left lazy.
        """
        raw = logits.astype(mx.float32)
        values = processed(raw, rows)
        state = _state(raw, values)
        # Neutral numbers for failed rows: what NaN does to an index is each device's own affair.
        values = mx.where(state[:, None] == 0, values, 0.0)
        tokens = _tokens(values, rows)
        errors = {index: row.error for index, row in enumerate(rows) if row.error is not None}
        sample = LazySample(
            tokens=tokens,
            state=state,
            logprobs=_logprobs(raw, tokens, rows),
            wanted=tuple(row.top_logprobs for row in rows),
            errors=errors,
        )
        for index, row in enumerate(rows):
            row.drawn_ahead.append((tokens, index))
        return sample


def _state(raw: mx.array, values: mx.array) -> mx.array:
    finite = mx.isfinite(mx.max(raw, axis=-1)) & ~mx.any(mx.isnan(raw), axis=-1)
    finite = finite & ~mx.isposinf(mx.max(values, axis=-1))
    allowed = mx.any(values > -mx.inf, axis=-1)
    return mx.where(finite, mx.where(allowed, 0, 2), 1).astype(mx.int32)


def _tokens(values: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    likeliest = mx.argmax(values, axis=-1).astype(mx.uint32)
    places = [index for index, row in enumerate(rows) if row.sampling.temperature > 0.0]
    if not places:
        return likeliest
    chosen = [rows[index] for index in places]
    values = values if len(places) == len(rows) else values[mx.array(places)]
    tokens = _drawn(restricted(values, chosen), chosen)
    if len(places) == len(rows):
        return tokens
    order = list(range(len(rows)))
    for position, index in enumerate(places):
        order[index] = len(rows) + position
    return mx.concatenate([likeliest, tokens])[mx.array(order)]


def _drawn(logits: mx.array, rows: Sequence[RowSampling]) -> mx.array:
    """`draw.drawn` for a batch: a block by its weight, then a token within it; uint32 `[rows]`."""
    count, vocab = logits.shape
    blocks = -(-vocab // BLOCK)
    temperature = mx.array([row.sampling.temperature for row in rows], mx.float32)[:, None]
    scaled = (logits - logits.max(axis=-1, keepdims=True)) / temperature
    scaled = mx.pad(scaled, [(0, 0), (0, blocks * BLOCK - vocab)], constant_values=-float("inf"))
    scaled = scaled.reshape(count, blocks, BLOCK)
    weights = mx.log(mx.sum(mx.exp(scaled), axis=-1))
    numbers = mx.arange(blocks, dtype=mx.uint32)[None]
    block = mx.argmax(
        weights + gumbel(numbers, [row.key(Purpose.BLOCK) for row in rows]),
        axis=-1,
        keepdims=True,
    )
    inside = mx.take_along_axis(scaled, block[..., None], axis=1).squeeze(1)
    ids = block.astype(mx.uint32) * BLOCK + mx.arange(BLOCK, dtype=mx.uint32)[None]
    token = mx.argmax(
        inside + gumbel(ids, [row.key(Purpose.TOKEN) for row in rows]),
        axis=-1,
        keepdims=True,
    )
    return mx.take_along_axis(ids, token, axis=-1).squeeze(-1)


def _logprobs(
    raw: mx.array, tokens: mx.array, rows: Sequence[RowSampling]
) -> tuple[mx.array, mx.array, mx.array] | None:
    wanted = [row.top_logprobs for row in rows if row.top_logprobs is not None]
    if not wanted:
        return None
    normaliser = mx.logsumexp(raw, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(raw, tokens[:, None], axis=-1) - normaliser
    top, ids = head(raw, max(1, *wanted))
    return chosen.squeeze(-1), ids, top - normaliser
