"""Totals since a model was loaded, for GetMetrics and the Info service."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Engine thread writes, any thread may read: each is one number that only grows."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    decode_steps: int = 0
    decode_seconds: float = 0.0
    shared_waits: int = 0
    preemptions: int = 0
