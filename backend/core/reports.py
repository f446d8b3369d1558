"""The worker's reports on itself: state, memory, speed, and facts of the loaded model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from backend.core.histogram import Histogram

EngineState = Literal["uninitialized", "busy", "ready", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The engine's state and what its memory is used for.

    Attributes:
        state: `uninitialized` before a load, `busy` while loading, `error` when the engine is dead.
        total_bytes: What the process holds.
        breakdown: Bytes by use (`weights`, `live_kv`, `cached_kv`, `buffer_pool`, `process`).
    """

    state: EngineState
    total_bytes: int = 0
    breakdown: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """Speed and totals of the loaded model since its load."""

    tokens_per_second: float = 0.0
    tokens_generated: int = 0
    prompt_tokens_processed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolMarkers:
    """How a model marks tool calls and reasoning in its text; empty where it has no such marker.

    Attributes:
        format_type: The tool-call format's name.
    """

    format_type: str
    call_start: str = ""
    call_end: str = ""
    reasoning_start: str = ""
    reasoning_end: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a host may want to know of a model before it uses it.

    Attributes:
        rendered_template: A short conversation as the chat template renders it; empty without a template.
        tool_markers: None where the model calls no tools.
    """

    supports_thinking: bool = False
    rendered_template: str = ""
    tool_markers: ToolMarkers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """Everything about the running worker that the Info service tells.

    Attributes:
        model: Identity of the loaded model; empty before a load.
        mode: `batched`, `serial`, or empty before a load.
        cache, queue: Figures by name.
        details: Texts by name, such as library versions.
    """

    version: str
    model: str = ""
    context: int = 0
    device: str = ""
    blas: str = ""
    mode: str = ""
    uptime_s: float = 0.0
    cache: Mapping[str, float] = field(default_factory=dict)
    queue: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
    """What an operator may know of the engine, by name; `backend.metrics.catalogue` says what each is.

    Attributes:
        model: The loaded model in words; empty where none is.
        numbers: Gauges, and counts since the process began.
        counts: Counts since then by a word out of a few, such as a finish reason.
    """

    worker: Mapping[str, str]
    model: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixFacts:
    """A prefix that is kept under a name.

    Attributes:
        nbytes: Of its key/value state in memory.
        hits: Requests that took all of it.
        age_s, idle_s: Seconds since it got its name, and since its last hit; None while there was none.
        where: `memory`, `disk`, or `memory and disk`.
    """

    name: str
    tokens: int
    nbytes: int
    hits: int
    age_s: float
    idle_s: float | None
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What the prompt cache did since the load, and what it may keep."""

    figures: Mapping[str, float] = field(default_factory=dict)
    isolation: str
    keeps: str

    def rate(self, part: str, whole: str) -> float:
        """One figure as a share of another, 0 where there is nothing to share."""
        return self.figures.get(part, 0.0) / max(1.0, self.figures.get(whole, 0.0))
