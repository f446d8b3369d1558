"""The results of a fetch and an insert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_cache.stats import Reason, Refusal


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch found. `caches` are the caller's own, None for a miss; `length` tokens are in them.

    `agreed` is how many tokens agree with something stored; more than `length` where a model's state could not be
    restored there.
    """

    caches: list[Any] | None
    length: int
    reason: Reason
    agreed: int

    def __str__(self) -> str:
        at = f" at {self.agreed}" if self.reason in (Reason.DIVERGED, Reason.EVICTED, Reason.NO_SNAPSHOT) else ""
        return f"{self.reason}{at}"


@dataclass(frozen=True, slots=True)
class Inserted:
    """What an insert did: the tokens now stored of the sequence, those of them that were new, or why none."""

    length: int
    new_tokens: int
    refusal: Refusal | None = None
