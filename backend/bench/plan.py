"""What is asked, and when: drawn from a seed before anything runs, so that two servers get the same. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from backend.bench.texts import Texts

# Of a prompt that shares its beginning, what is its own.
LEAST_OWN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens from `least` to `most`, each as likely."""

    least: int
    most: int

    def draw(self, source: random.Random) -> int:
        """One of them."""
        return source.randint(self.least, self.most)

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What kind of requests, and how many.

    Attributes:
        rate: Arrivals a second, as a Poisson process; None sends each as soon as a stream is free.
        shared_share: Of the requests, those that begin with one of `shared_prefixes` texts of `shared_tokens`.
    """

    requests: int
    prompt: Lengths
    answer: Lengths
    seed: int = 0
    rate: float | None = None
    shared_share: float = 0.0
    shared_tokens: int = 0
    shared_prefixes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One request.

    Attributes:
        at: Seconds after the start at which it arrives; None for as soon as a stream is free.
        prompt_tokens: About so many.
    """

    prompt: str
    prompt_tokens: int
    answer_tokens: int
    at: float | None = None


def plan(load: Load, texts: Texts, run: str) -> list[Planned]:
    """The requests of a load.

    Args:
        run: Other runs' texts are others, so that nothing of theirs is of use to this one.
    """
    arrivals = random.Random(f"{load.seed} arrivals")
    now, planned = 0.0, list[Planned]()
    for place in range(load.requests):
        source = random.Random(f"{load.seed} {place}")
        tokens, answer = load.prompt.draw(source), load.answer.draw(source)
        shares, which = source.random() < load.shared_share, source.randrange(load.shared_prefixes)
        shared = min(load.shared_tokens, tokens - LEAST_OWN_TOKENS) if shares else 0
        parts = [texts.of(f"{run} {load.seed} shared {which}", shared) if shared > 0 else ""]
        parts.append(texts.of(f"{run} {load.seed} {place} own", tokens - max(0, shared)))
        if load.rate is not None:
            now += arrivals.expovariate(load.rate)
        planned.append(
            Planned(
                prompt=" ".join(filter(None, parts)),
                prompt_tokens=tokens,
                answer_tokens=answer,
                at=None if load.rate is None else now,
            )
        )
    return planned


def rounds(planned: Sequence[Planned], count: int) -> list[list[Planned]]:
    """The plan in `count` parts, as alike in number as can be; arrivals count from each part's first."""
    edges = [len(planned) * place // count for place in range(count + 1)]
    parts = [planned[begin:end] for begin, end in pairwise(edges)]
    return [[_from(one, part[0].at) for one in part] for part in parts if part]


def _from(one: Planned, start: float | None) -> Planned:
    return one if one.at is None or start is None else replace(one, at=one.at - start)
