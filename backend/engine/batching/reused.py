"""What the prompt cache had for a prompt, in memory or on a disk."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reused:
    """What the cache had for a prompt.

    Attributes:
        caches: Fresh layer caches that hold the KV of the first `length` tokens, or None for a miss.
        reason: Why it is no longer, in one word, in words that its own tenant may know.
    """

    caches: list[Any] | None
    length: int
    reason: str
