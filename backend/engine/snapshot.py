"""What the engine thread lets others see of itself: a frozen picture, renewed between steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.engine.counters import Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSnapshot:
    """Bytes and counts at one moment between two steps.

    Attributes:
        buffer_pool: Bytes of freed buffers that MLX keeps for reuse.
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
    counters: Counters = field(default_factory=Counters)
    cache: Mapping[str, float] = field(default_factory=dict)
