"""Logprobs as the client reads them: with each token's bytes."""

from collections.abc import Callable

from backend.core.events import TokenLogprob
from backend.engine.sampling.sampled import RowLogprobs


def token_logprob(token: int, logprobs: RowLogprobs, bytes_of: Callable[[int], bytes]) -> TokenLogprob:
    """One sampled token's entry with its alternatives."""
    top = (
        TokenLogprob(id=other, token=bytes_of(other), logprob=value)
        for other, value in zip(logprobs.top_ids, logprobs.top, strict=True)
    )
    return TokenLogprob(id=token, token=bytes_of(token), logprob=logprobs.chosen, top=tuple(top))
