"""What a row computes in place of an answer. Frozen; crosses from prep threads to the engine's."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backend.core.pooled import Pooling

Tokens = NDArray[np.int32]
MOST_BATCHED = 2048
"""Tokens of texts that are embedded together, padding included: as many keep a GPU busy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embed:
    """Texts to embed, each by itself.

    Attributes:
        texts: Token ids, each `[n]`, n >= 1.
        normalize: Vectors get the Euclidean length 1.
        compares: What is wanted are the cosines of the first text with each of the others.
    """

    texts: tuple[Tokens, ...]
    pooling: Pooling
    normalize: bool
    compares: bool = False

    @cached_property
    def total(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.texts))

    @cached_property
    def reach(self) -> int:
        """Tokens that are in caches at one time, at most."""
        return max(*map(len, self.texts), min(self.total, MOST_BATCHED))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tail:
    """What goes on from the shared prompt in one way.

    Attributes:
        feed: Tokens that run after the prompt; may be empty.
        targets: What is scored: the tokens that follow the last `len(targets)` of `feed`.
    """

    feed: Tokens
    targets: Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Tails:
    """Ways to go on from one prompt, each as if it were the only one.

    Attributes:
        total: Tokens of all prompts with their tails, for usage.
        yes_no: Two token ids: what is wanted of each tail is the chance of the first against the second after its last
            token. None wants the log-probabilities of the targets.
    """

    tails: tuple[Tail, ...]
    total: int
    yes_no: tuple[int, int] | None = None

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest tail."""
        return max((len(tail.feed) for tail in self.tails), default=0)


Work = Embed | Tails
