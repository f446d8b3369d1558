"""The result of a step of sampling."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.engine.sampling.selection import ranked

NO_TOKEN = -1
NOT_FINITE = "the model's logits are not finite"
CODE_FAILED = "the code that holds the answer to its grammar failed"
DRAW_FAILED = "the code that draws the answer's tokens failed"
NOTHING_ALLOWED = "no token is allowed here: all are forbidden by the grammar, LogitBias or IgnoreEOS"


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """Natural-log probabilities under the model, before bias, penalties, masks and temperature.

    mlx-lm reports them after its logits processors; OpenAI's API, like this, as the model's own.

    Attributes:
        chosen: The sampled token's.
        top_ids, top: The most likely tokens and theirs, most likely first; of equals the lowest id first.
    """

    chosen: float
    top_ids: tuple[int, ...]
    top: tuple[float, ...]


@dataclass(slots=True)
class Sampled:
    """One entry a row, in the order of the rows.

    Attributes:
        tokens: `NO_TOKEN` for a row in `errors`.
        logprobs: None for rows that did not ask, and for rows in `errors`.
        errors: Why a row got no token, in one line, by its index. Its batch mates are not affected.
    """

    tokens: list[int]
    logprobs: list[RowLogprobs | None]
    errors: dict[int, str] = field(default_factory=dict)


def logprobs_of(logits: NDArray[np.float32], token: int, count: int) -> RowLogprobs:
    """Of one row's unprocessed logits `[vocab]`, whose largest is finite."""
    peak = logits.max()
    weights = logits - peak
    np.exp(weights, out=weights)
    normaliser = float(peak) + float(np.log(weights.sum(dtype=np.float64)))
    top_ids = ranked(logits, count) if count else np.empty(0, np.int64)
    return RowLogprobs(
        chosen=float(logits[token]) - normaliser,
        top_ids=tuple(top_ids.tolist()),
        top=tuple((logits[top_ids].astype(np.float64) - normaliser).tolist()),
    )
