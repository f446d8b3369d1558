"""What a tier has done since it was made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Monotonic counts. Guarded by the tier's lock.

    `reads` are prompts that something was read for, `hits` those of them that got tokens; `dropped` are files that
    were offered and not written.
    """

    reads: int = 0
    hits: int = 0
    tokens_read: int = 0
    bytes_read: int = 0
    writes: int = 0
    bytes_written: int = 0
    dropped: int = 0
    evicted: int = 0
    quarantined: int = 0
