"""One of the other ranks, as rank 0 knows it."""

from dataclasses import dataclass

from backend.engine.ranks.link import Link

BEAT_SECONDS = 0.5
SILENT_SECONDS = 5.0
"""A rank that says nothing for so long is lost: it was stopped, or the network between is."""


@dataclass(slots=True)
class Peer:
    """One of the other ranks. `progress` counts up as it begins and ends commands."""

    rank: int
    commands: Link | None = None
    watch: Link | None = None
    heard_at: float = 0.0
    progress: int = 0
    level_at: float = 0.0
    moved_at: float = 0.0
