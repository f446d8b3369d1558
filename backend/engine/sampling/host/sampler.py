"""Sampling on the host, in numpy: what a CPU backend uses (MLX's CPU sort of 16 x 150k takes 166 ms)."""

import math
from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.host.draw import drawn
from backend.engine.sampling.host.processors import processed
from backend.engine.sampling.host.restrict import Candidates, restricted
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import (
    DRAW_FAILED,
    NO_TOKEN,
    NOT_FINITE,
    NOTHING_ALLOWED,
    Sampled,
    logprobs_of,
)
from backend.engine.waits import on_host


class HostSampler:
    """Engine thread only. Has no state: all of a row's is in its `RowSampling`."""

    def sample(self, logits: mx.array, rows: Sequence[RowSampling]) -> Sampled:
        """One token for each row; waits for the logits.

        Does not enter the tokens into the rows: call `RowSampling.accept` for those that are kept.

        Args:
            logits: `[rows, vocab]`, any float dtype.
        """
        values = numbers(logits)
        assert values.shape[:-1] == (len(rows),), (values.shape, len(rows))
        return self.draw(values, rows)

    def draw(self, values: Sequence[NDArray[np.float32]] | NDArray[np.float32], rows: Sequence[RowSampling]) -> Sampled:
        """As `sample`, from logits that are on the host: `[vocab]` of each row, which are only read."""
        sampled = Sampled(tokens=[NO_TOKEN] * len(rows), logprobs=[None] * len(rows))
        to_draw: dict[int, tuple[Candidates, RowSampling]] = {}
        for index, row in enumerate(rows):
            try:
                choice = _choice(values[index], row)
            except _NoTokenError as error:
                sampled.errors[index] = str(error)
                continue
            except Exception as error:  # noqa: BLE001 - one row's fault must not end the batch
                row.broke(error, DRAW_FAILED)
                sampled.errors[index] = DRAW_FAILED
                continue
            if isinstance(choice, Candidates):
                to_draw[index] = choice, row
            else:
                sampled.tokens[index] = choice
        _draw(to_draw, sampled)
        for index, row in enumerate(rows):
            if row.top_logprobs is not None and index not in sampled.errors:
                sampled.logprobs[index] = logprobs_of(values[index], sampled.tokens[index], row.top_logprobs)
        return sampled


class _NoTokenError(Exception):
    """This row has no token to draw; the message says why."""


def _draw(rows: Mapping[int, tuple[Candidates, RowSampling]], sampled: Sampled) -> None:
    try:
        tokens = drawn(list(rows.values()))
    except Exception:  # noqa: BLE001 - whose it is is found by drawing one by one
        for index, (candidates, row) in rows.items():
            try:
                sampled.tokens[index] = drawn([(candidates, row)])[0]
            except Exception as error:  # noqa: BLE001 - as above
                row.broke(error, DRAW_FAILED)
                sampled.errors[index] = DRAW_FAILED
        return
    for index, token in zip(rows, tokens, strict=True):
        sampled.tokens[index] = token


def numbers(logits: mx.array) -> NDArray[np.float32]:
    """The same numbers as float32, without a copy where they are. Only to be read: it may be MLX's own memory."""
    # In MLX: numpy knows no bfloat16 and is slower with float16.
    return on_host(logits.astype(mx.float32))


def _choice(logits: NDArray[np.float32], row: RowSampling) -> int | Candidates:
    """The row's token, or what to draw it from."""
    values = processed(logits, row)
    if row.error is not None:
        raise _NoTokenError(row.error)
    if values is not logits and not np.isfinite(logits.max()):
        raise _NoTokenError(NOT_FINITE)
    # NaN counts as the largest here, so this finds one anywhere.
    best = int(values.argmax())
    peak = values[best]
    if peak == -math.inf:  # numpy takes a hundred times as long to ask
        raise _NoTokenError(NOTHING_ALLOWED)
    if not math.isfinite(peak):
        raise _NoTokenError(NOT_FINITE)
    return best if row.sampling.temperature == 0.0 else restricted(values, peak, row)
