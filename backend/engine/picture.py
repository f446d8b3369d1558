"""The picture of itself that the engine thread lets others see: frozen, renewed between steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Engine thread writes, any thread may read: each is one number that only grows."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    disk_waits_ended: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    decode_steps: int = 0
    decode_seconds: float = 0.0
    shared_waits: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePicture:
    """Bytes and counts at one moment between two steps.

    Attributes:
        storing: Rows that have ended and are here yet: the prompt cache takes copies, or their last step runs.
        buffer_pool: Bytes of freed buffers that MLX keeps for reuse.
        disk_state: `on`, or why the prompt cache's disk takes nothing; empty where there is none.
        cache: The prompt cache's own figures by name.
    """

    at: float
    active_bytes: int = 0
    buffer_pool: int = 0
    weights: int = 0
    live_kv: int = 0
    cached_kv: int = 0
    budget: int = 0
    waiting: int = 0
    prefilling: int = 0
    decoding: int = 0
    storing: int = 0
    counters: Counters = field(default_factory=Counters)
    disk_state: str = ""
    cache: Mapping[str, float] = field(default_factory=dict)
