"""What requests add up to. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from backend.bench.driving import Run
from backend.bench.measured import Measured

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One server's figures; times in seconds, percentiles by their number.

    Attributes:
        requests: That came to their end.
        cut: That ran when the time was over.
        not_begun: That had arrived by then, and were never sent: no time of theirs is known, and it would be long.
        errors: How often each sentence.
        tokens: Of answers, as far as they came.
        cached_share: Of the whole answers' prompt tokens; None where the server does not say.
        drafted_tokens, accepted_tokens: Tokens of the whole answers that were guessed, and those that were right.
        first: Times to the first token.
        gap: Times from one token to the next.
        whole: Times to the end of the answer.
    """

    name: str
    seconds: float
    requests: int
    cut: int
    not_begun: int
    errors: Mapping[str, int]
    tokens: int
    prompt_tokens: int
    cached_share: float | None
    drafted_tokens: int
    accepted_tokens: int
    first: Mapping[int, float]
    gap: Mapping[int, float]
    whole: Mapping[int, float]

    @property
    def tokens_a_second(self) -> float:
        """Of all streams together."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def requests_a_second(self) -> float:
        """That came to their end."""
        return self.requests / self.seconds if self.seconds else 0.0


def summary(run: Run) -> Summary:
    """A server's figures."""
    measured = run.measured
    whole = [one for one in measured if one.whole]
    known = [one for one in whole if one.cached_tokens is not None]
    prompt_tokens = sum(one.prompt_tokens for one in known)
    gaps = [gap for one in measured for gap in one.gaps]
    return Summary(
        name=run.name,
        seconds=run.seconds,
        requests=len(whole),
        cut=sum(one.cut for one in measured),
        not_begun=run.not_begun,
        errors=dict(Counter(one.error for one in measured if one.error).most_common()),
        tokens=sum(one.tokens for one in measured),
        prompt_tokens=sum(one.prompt_tokens for one in whole),
        cached_share=sum(one.cached_tokens or 0 for one in known) / prompt_tokens if prompt_tokens else None,
        drafted_tokens=sum(one.drafted_tokens for one in whole),
        accepted_tokens=sum(one.accepted_tokens for one in whole),
        first=percentiles([(seconds, 1) for one in measured if (seconds := one.watch.first_seconds) is not None]),
        # A piece of several tokens stands for that many gaps, each a part of its own.
        gap=percentiles([(seconds / tokens, tokens) for seconds, tokens in gaps]),
        whole=percentiles([(one.seconds, 1) for one in whole]),
    )


def percentiles(values: Sequence[tuple[float, int]]) -> dict[int, float]:
    """By nearest rank, of values that each count so many times; none of nothing."""
    ordered = sorted(values)
    ranks = list(accumulate(weight for _, weight in ordered))
    if not ranks:
        return {}
    found: dict[int, float] = {}
    for percent in PERCENTILES:
        rank = max(1, math.ceil(percent / 100 * ranks[-1]))
        found[percent] = next(value for (value, _), reached in zip(ordered, ranks, strict=True) if reached >= rank)
    return found


def over_time(run: Run, parts: int) -> list[float]:
    """Tokens a second in equal parts of the time in which a server was asked, its rounds put end to end."""
    if not run.seconds:
        return []
    width, counts = run.seconds / parts, [0.0] * parts
    for moment, tokens in _moments(run):
        counts[min(parts - 1, int(moment / width))] += tokens
    return [count / width for count in counts]


def _moments(run: Run) -> list[tuple[float, int]]:
    """When tokens came, on a clock that runs in this server's rounds alone."""
    ends = [*run.began[1:], math.inf]
    found: list[tuple[float, int]] = []
    before = 0.0
    tokens_at = sorted(pair for one in run.measured for pair in one.tokens_at)
    for began, end in zip(run.began, ends, strict=True):
        inside = [(moment - began, tokens) for moment, tokens in tokens_at if began <= moment < end]
        found += [(before + moment, tokens) for moment, tokens in inside]
        before += max((moment for moment, _ in inside), default=0.0)
    return found


def ratios(ours: Summary, other: Summary) -> dict[str, float]:
    """Ours over another's, where both have the figure; for times less is better."""
    found = {"tokens_a_second": (ours.tokens_a_second, other.tokens_a_second)}
    found["requests_a_second"] = (ours.requests_a_second, other.requests_a_second)
    for name in ("first", "gap", "whole"):
        mine, theirs = getattr(ours, name), getattr(other, name)
        found |= {f"{name}_p{percent}": (mine[percent], theirs[percent]) for percent in mine if percent in theirs}
    return {name: mine / theirs for name, (mine, theirs) in found.items() if theirs}


def samples(measured: Sequence[Measured], start: float) -> list[dict[str, float | int | str | None]]:
    """Each request, for machines; times in seconds after `start`."""
    return [
        {
            "at": one.watch.began - start,
            "first": one.watch.first_seconds,
            "seconds": one.seconds,
            "tokens": one.tokens,
            "prompt_tokens": one.prompt_tokens,
            "cached_tokens": one.cached_tokens,
            "drafted_tokens": one.drafted_tokens,
            "accepted_tokens": one.accepted_tokens,
            "outcome": one.error or ("cut" if one.cut else "whole"),
        }
        for one in measured
    ]
