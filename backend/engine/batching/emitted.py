"""A token that was drawn for a row."""

from dataclasses import dataclass

from backend.engine.batching.row import Row
from backend.engine.sampling.sampled import RowLogprobs, Sampled


@dataclass(frozen=True, slots=True)
class Emitted:
    """A row's newest token, or why it cannot have one.

    Attributes:
        error: One line; the row must end, the others are as if it had not been there.
    """

    row: Row
    token: int
    logprobs: RowLogprobs | None
    error: str | None = None


def accept_sampled(row: Row, index: int, sampled: Sampled) -> Emitted:
    """Row `index` of a draw, entered into the row's history."""
    error = sampled.errors.get(index)
    if error is not None:
        return Emitted(row, -1, None, error)
    token = sampled.tokens[index]
    row.last_token = token
    row.sampling.accept(token)
    if row.drafts is not None:
        row.drafts.told(token)
    return Emitted(row, token, sampled.logprobs[index])
