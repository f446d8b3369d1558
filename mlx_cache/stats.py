"""Counters, and why a hit was as short as it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a fetch matched as many tokens as it did, and no more."""

    FULL = "full"
    """Everything but the last token, which is always left to run."""
    EXTENDED = "extended"
    """A whole stored sequence was used; the prompt goes on behind it."""
    DIVERGED = "diverged"
    """The prompt and what is stored differ at the next token."""
    EVICTED = "evicted"
    """What came next was stored once and has been evicted."""
    NO_SNAPSHOT = "no-snapshot"
    """More tokens agree, but the model's state can only be restored at the point returned."""
    OTHER_NAMESPACE = "other-namespace"
    """Nothing here; another model key holds this prefix."""
    EMPTY = "empty"
    """Nothing is stored under this model key."""
    UNSUPPORTED_LAYER = "unsupported-layer"
    """The model has a layer cache class that is not on the allow-list."""
    UNREADABLE = "unreadable"
    """A file on the disk has it, and could not be used."""
    CANCELLED = "cancelled"
    """The caller gave a read from the disk up."""


class Refusal(StrEnum):
    """Why an insert stored nothing."""

    OFF = "off"
    EMPTY = "empty"
    NO_ROOM = "no-room"
    UNSUPPORTED_LAYER = "unsupported-layer"
    INCONSISTENT = "inconsistent"
    CLEARED = "cleared"
    CONTENDED = "contended"


@dataclass(slots=True)
class Counters:
    """Monotonic counts since the cache was made. Guarded by the cache's lock."""

    fetches: int = 0
    hits: int = 0
    tokens_asked: int = 0
    tokens_matched: int = 0
    inserts: int = 0
    tokens_stored: int = 0
    evicted_blocks: int = 0
    evicted_states: int = 0
    evicted_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    refusals: dict[str, int] = field(default_factory=dict[str, int])
    unsupported: dict[str, int] = field(default_factory=dict[str, int])

    def fetched(self, asked: int, matched: int, reason: Reason) -> None:
        """Count one fetch."""
        self.fetches += 1
        self.hits += matched > 0
        self.tokens_asked += asked
        self.tokens_matched += matched
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def refused(self, refusal: Refusal) -> None:
        """Count one insert that stored nothing."""
        self.refusals[refusal] = self.refusals.get(refusal, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """A copy made of plain types."""
        return {
            name: {str(key): n for key, n in v.items()} if isinstance(v, dict) else v
            for name, v in asdict(self).items()
        }
