"""Sampling in lazy MLX operations: what a GPU backend uses, to run a step ahead of the host."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.device.kernels import NOT_FINITE_STATE, STATE_SHIFT, TOKEN_MASK, Kernels
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
from backend.engine.waits import known, wait


@dataclass(frozen=True)
class LazySample:
    """A step's draw, not evaluated yet. Belongs to the thread that made it.

    Attributes:
        tokens: uint32 `[rows]`, always in the vocabulary: the next step's input. Without meaning for a row that
            turns out to be in `Sampled.errors`.
        words: All that the host reads, uint32, in one array: `[rows]`, a token and its state each; where a row asked
            for logprobs `[rows, 2 + 2n]`, then the bits of the chosen token's, the n most likely ids and theirs.
        wanted: `RowSampling.top_logprobs` of each row.
        errors: What is known before evaluation.
    """

    tokens: mx.array
    words: mx.array
    wanted: tuple[int | None, ...]
    errors: dict[int, str]

    def arrays(self) -> list[mx.array]:
        """All that is to be computed."""
        return [self.tokens, self.words]

    def collect(self) -> Sampled:
        """Wait for the draw and read it, once. Raises what the device reports."""
        wait(self.words)
        return self.read()

    def read(self) -> Sampled:
        """As `collect`, of a draw that was waited for."""
        words = known(self.words)
        first = words if words.ndim == 1 else words[:, 0]
        tokens: list[int] = (first & TOKEN_MASK).tolist()
        sampled = Sampled(tokens=tokens, logprobs=[None] * len(tokens), errors=dict(self.errors))
        for index, state in enumerate((first >> STATE_SHIFT).tolist()):
            if state:
                reason = NOT_FINITE if state == NOT_FINITE_STATE else NOTHING_ALLOWED
                sampled.errors.setdefault(index, reason)
        for index in sampled.errors:
            sampled.tokens[index] = NO_TOKEN
        if words.ndim == 2:
            self._read_logprobs(words, sampled)
        return sampled

    def _read_logprobs(self, words: NDArray[np.uint32], sampled: Sampled) -> None:
        most = (words.shape[1] - 2) // 2
        values = words.view(np.float32)
        for index, count in enumerate(self.wanted):
            if count is not None and index not in sampled.errors:
                sampled.logprobs[index] = RowLogprobs(
                    chosen=float(values[index, 1]),
                    top_ids=tuple(words[index, 2 : 2 + count].tolist()),
                    top=tuple(values[index, 2 + most : 2 + most + count].tolist()),
                )


class DeviceSampler:
    """Engine thread only. The same draws as `HostSampler`'s up to float32 rounding.

    Args:
        fused: Join elementwise operations to one kernel each; for GPUs, where each launch costs microseconds.
    """

    def __init__(self, *, fused: bool = False) -> None:
        self._kernels = Kernels(fused=fused)

    def sample_lazy(self, logits: mx.array, rows: Sequence[RowSampling]) -> LazySample:
        """One token for each row, without waiting for anything.

        The tokens become pending in their rows: the next call may follow before they are accepted, except for rows
        where `RowSampling.needs_last_token`. `accept` takes them off in the same order.

        Args:
            logits: `[rows, vocab]`, any float dtype; a lazy array is left lazy.
        """
        raw = logits if _all_plain(rows) else logits.astype(mx.float32)
        of_raw = mx.logsumexp(raw, axis=-1)
        values = processed(raw, rows, self._kernels)
        of_values = of_raw if values is raw else mx.logsumexp(values, axis=-1)
        tokens, words = self._tokens(values, of_raw, of_values, rows)
        for index, row in enumerate(rows):
            row.drawn_ahead.append((tokens, index))
        return LazySample(
            tokens=tokens,
            words=_with_logprobs(words, raw, of_raw, tokens, rows, self._kernels),
            wanted=tuple(row.top_logprobs for row in rows),
            errors={index: row.error for index, row in enumerate(rows) if row.error is not None},
        )

    def _tokens(
        self, values: mx.array, of_raw: mx.array, of_values: mx.array, rows: Sequence[RowSampling]
    ) -> tuple[mx.array, mx.array]:
        """Tokens, and tokens with their states, uint32 `[rows]`."""
        kernels = self._kernels
        temperatures = tuple(row.sampling.temperature for row in rows)
        if not any(temperatures):
            likeliest = mx.argmax(values, axis=-1)
            if of_values is of_raw:
                return kernels.finished_plain(likeliest, of_raw)
            return kernels.finished(likeliest, of_raw, of_values)
        block, place = _drawn(restricted(values, rows, kernels), rows, kernels)
        if all(temperatures):
            return kernels.finished_drawn(block, place, of_raw, of_values)
        likeliest = mx.argmax(values, axis=-1)
        flat = kernels.column(temperatures).squeeze(-1)
        return kernels.finished_mixed(block, place, likeliest, flat, of_raw, of_values)


def _all_plain(rows: Sequence[RowSampling]) -> bool:
    """Whether the largest logit is all that is asked for: it is the same in any dtype."""
    return all(
        row.sampling.temperature == 0.0
        and row.top_logprobs is None
        and row.constraint is None
        and row.window is None
        and not row.sampling.ignore_eos
        and not len(row.bias_ids)
        for row in rows
    )


def _drawn(logits: mx.array, rows: Sequence[RowSampling], kernels: Kernels) -> tuple[mx.array, mx.array]:
    """`draw.drawn` for a batch: a block by its weight, then a place within it, both `[rows]`."""
    count, vocab = logits.shape
    blocks = -(-vocab // BLOCK)
    # All that is new in a step, in one array.
    words = mx.array([(*row.key(Purpose.BLOCK), *row.key(Purpose.TOKEN)) for row in rows], mx.uint32)
    low, high, token_low, token_high = (words[:, index : index + 1] for index in range(4))
    peak = logits.max(axis=-1, keepdims=True)
    if vocab < blocks * BLOCK:
        logits = mx.pad(logits, [(0, 0), (0, blocks * BLOCK - vocab)], constant_values=-float("inf"))
    temperature = kernels.column(tuple(row.sampling.temperature for row in rows))
    scaled, weights = kernels.tempered(logits.reshape(count, blocks, BLOCK), peak[..., None], temperature[..., None])
    scores = kernels.block_scores(mx.sum(weights, axis=-1), kernels.numbers(blocks), low, high)
    block = mx.argmax(scores, axis=-1, keepdims=True)
    inside = mx.take_along_axis(scaled, block[..., None], axis=1).squeeze(1)
    scores = kernels.token_scores(inside, block, kernels.numbers(BLOCK), token_low, token_high)
    return block.squeeze(-1), mx.argmax(scores, axis=-1)


def _with_logprobs(
    words: mx.array, raw: mx.array, of_raw: mx.array, tokens: mx.array, rows: Sequence[RowSampling], kernels: Kernels
) -> mx.array:
    wanted = [row.top_logprobs for row in rows if row.top_logprobs is not None]
    if not wanted:
        return words
    normaliser = of_raw[:, None]
    chosen = mx.take_along_axis(raw, tokens[:, None], axis=-1) - normaliser
    top, ids = head(raw, max(1, *wanted), kernels)
    parts = [words[:, None], chosen.view(mx.uint32), ids.astype(mx.uint32), (top - normaliser).view(mx.uint32)]
    return mx.concatenate(parts, axis=-1)
