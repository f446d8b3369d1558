"""The picture of itself that the engine thread lets others see: frozen, renewed between steps."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial

from backend.core.histogram import FIRST_TOKEN_SECONDS, REQUEST_SECONDS, TOKEN_SECONDS, TOKENS, Histogram


@dataclass(slots=True)
class Timings:
    """Engine thread only. Of every token that counts, and of every answer that was finished."""

    first_token: Histogram = field(default_factory=partial(Histogram, FIRST_TOKEN_SECONDS))
    between_tokens: Histogram = field(default_factory=partial(Histogram, TOKEN_SECONDS))
    request: Histogram = field(default_factory=partial(Histogram, REQUEST_SECONDS))
    queue: Histogram = field(default_factory=partial(Histogram, REQUEST_SECONDS))
    prefill: Histogram = field(default_factory=partial(Histogram, REQUEST_SECONDS))
    decode: Histogram = field(default_factory=partial(Histogram, REQUEST_SECONDS))
    prompt_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    generated_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))

    def __add__(self, other: "Timings") -> "Timings":
        """Both together, as one that changes no more."""
        return Timings(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def copy(self) -> "Timings":
        """One that changes no more."""
        return Timings(**{each.name: getattr(self, each.name).copy() for each in fields(self)})


@dataclass(slots=True)
class Counters:
    """Engine thread writes; others read the copy in a picture. Each is one number that only grows.

    Attributes:
        looked_up_tokens: Of the prompts that `cached_tokens` counts the hits of; none of either under `strict`.
        cache_reasons: Those prompts by the first word of why no more of them was cached.
        finished: Answers by their finish reason.
        verify_passes: Steps that looked at drafted tokens.
        drafted_tokens, accepted_tokens: Those, and those of them that were drawn, by the drafter.
    """

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
    priority_preemptions: int = 0
    looked_up_tokens: int = 0
    verify_passes: int = 0
    drafted_tokens: Counter[str] = field(default_factory=Counter[str])
    accepted_tokens: Counter[str] = field(default_factory=Counter[str])
    cache_reasons: Counter[str] = field(default_factory=Counter[str])
    finished: Counter[str] = field(default_factory=Counter[str])
    timings: Timings = field(default_factory=Timings)

    def __add__(self, other: "Counters") -> "Counters":
        """Both together, as one that changes no more."""
        return Counters(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def copy(self) -> "Counters":
        """One that changes no more."""
        counts = {each.name: getattr(self, each.name) for each in fields(self)}
        return Counters(**{name: value.copy() if hasattr(value, "copy") else value for name, value in counts.items()})

    def without_cache(self) -> "Counters":
        """A copy that tells nothing of what the prompt cache had."""
        none = {"cached_tokens": 0, "disk_waits_ended": 0, "shared_waits": 0, "looked_up_tokens": 0}
        return replace(self.copy(), cache_reasons=Counter[str](), **none)


@dataclass(frozen=True, slots=True)
class Before:
    """What the loads before the present one did, all together.

    Attributes:
        cache: Their prompt caches' last figures added up by name; only of those that count does the sum mean something.
    """

    counters: Counters = field(default_factory=Counters)
    cache: Mapping[str, float] = field(default_factory=dict[str, float])

    def and_also(self, counters: Counters, cache: Mapping[str, float], *, tells: bool) -> "Before":
        """With one more load; of its prompt cache only where that may be told."""
        if not tells:
            counters, cache = counters.without_cache(), {}
        added = {name: self.cache.get(name, 0.0) + cache.get(name, 0.0) for name in self.cache.keys() | cache.keys()}
        return Before(self.counters + counters, added)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePicture:
    """Bytes and counts at one moment between two steps.

    Attributes:
        storing: Rows that have ended and are here yet: the prompt cache takes copies, or their last step runs.
        buffer_pool: Bytes of freed buffers that MLX keeps for reuse.
        cached_kv, cached_draft_kv: Bytes that the prompt cache has in memory, and those of them of a draft model.
        disk_state: `on`, or why the prompt cache's disk takes nothing; empty where there is none.
        counters: Since the load.
        cache: The prompt cache's own figures by name.
        speculation: What `Depths.figures` says; empty where nothing guesses, and while the model is asleep.
        draft_fault: Why a draft model guesses no more; empty while it does, or where there is none.
        tells: Whether anything of the prompt cache may be told.
        before: What was counted before the load.
    """

    at: float
    active_bytes: int = 0
    peak_bytes: int = 0
    buffer_pool: int = 0
    weights: int = 0
    live_kv: int = 0
    cached_kv: int = 0
    cached_draft_kv: int = 0
    budget: int = 0
    waiting: int = 0
    prefilling: int = 0
    decoding: int = 0
    storing: int = 0
    counters: Counters = field(default_factory=Counters)
    disk_state: str = ""
    cache: Mapping[str, float] = field(default_factory=dict)
    speculation: Mapping[str, float] = field(default_factory=dict)
    draft_fault: str = ""
    tells: bool = True
    before: Before = field(default_factory=Before)

    @property
    def totals(self) -> Counters:
        """Since the process began."""
        return self.before.counters + self.counters
