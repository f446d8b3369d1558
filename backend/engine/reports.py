"""The engine's picture of itself, in the words of `backend.core.reports`."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import backend
from backend.config import Drafter, Isolation
from backend.confined.memory import peak_bytes
from backend.core.logline import visible
from backend.core.reports import CacheReport, EngineMetrics, EngineState, EngineStatus, WorkerInfo
from backend.engine.picture import EnginePicture
from backend.engine.preparing.pooled import PooledPreparer
from backend.engine.preparing.requests import RequestPreparer

LIBRARIES = ("mlx", "mlx-lm", "grpcio", "llguidance", "transformers")
KEPT: Mapping[Isolation, str] = {
    "performance": "the KV of every request for its tenant, and prefixes named without a tenant for everybody; "
    "requests decode together",
    "balanced": "the KV of every request, and named prefixes, for their tenant; requests decode together",
    "strict": "named prefixes for their tenant; requests run one at a time and leave nothing",
}
STATUS_FILE = Path("/proc/self/status")


@cache
def library_versions() -> dict[str, str]:
    """Versions by name; reads package metadata from disk, once."""
    return {name: version(name) for name in LIBRARIES}


def resident_bytes(status_file: Path = STATUS_FILE) -> int:
    """Bytes of this process in memory now, where the system says so in /proc; else 0."""
    try:
        with status_file.open(encoding="ascii") as lines:
            line = next(line for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1]) << 10


def status(state: EngineState, picture: EnginePicture | None, status_file: Path = STATUS_FILE) -> EngineStatus:
    """State and memory. The total is the process's resident size where known, else MLX's own count.

    Where only the peak is known, as on macOS, the process's line says that, but never the total: it would not fall
    when a model is dropped. To ask another program, such as ps, would hold up the event loop.
    """
    resident = resident_bytes(status_file)
    if picture is None:
        return EngineStatus(state=state, total_bytes=resident or peak_bytes())
    return EngineStatus(
        state=state,
        total_bytes=resident or picture.active_bytes + picture.buffer_pool,
        breakdown={
            "weights": picture.weights,
            "live_kv": picture.live_kv,
            "cached_kv": picture.cached_kv,
            "buffer_pool": picture.buffer_pool,
            "mlx_active": picture.active_bytes,
            "process": resident or peak_bytes(),
        },
    )


def metrics(picture: EnginePicture | None) -> EngineMetrics:
    """Totals since the load; tokens a second over the time spent in decode steps."""
    if picture is None:
        return EngineMetrics()
    counters = picture.counters
    seconds = counters.decode_seconds
    return EngineMetrics(
        tokens_per_second=counters.generated_tokens / seconds if seconds else 0.0,
        tokens_generated=counters.generated_tokens,
        prompt_tokens_processed=counters.prompt_tokens,
    )


def cache_report(model: RequestPreparer, figures: Mapping[str, float]) -> CacheReport:
    """What the prompt cache did, and the mode it runs in."""
    isolation = model.config.engine.isolation
    return CacheReport(figures=figures, isolation=isolation, keeps=KEPT[isolation])


def info(
    model: RequestPreparer | None,
    picture: EnginePicture | None,
    *,
    blas: str,
    uptime_s: float,
    in_flight: int,
    asleep_since: datetime | None = None,
) -> WorkerInfo:
    """Everything the Info service tells."""
    details = library_versions()
    if model is None:
        return WorkerInfo(version=backend.__version__, blas=blas, uptime_s=uptime_s, details=details)
    facts = model.facts
    details = details | {"architecture": facts.architecture, "path": facts.path, "serial_reason": facts.serial_reason}
    details |= {"uncached_reason": facts.uncached_reason, **facts.memory}
    details["prompt_cache_disk"] = visible(picture.disk_state) if picture else ""
    details |= {"embedding": _embedding(model.pooled), "rerank": model.pooled.rerank_way}
    details["speculation"] = drafters_in_words(model, picture)
    isolation = model.config.engine.isolation
    details |= {"isolation": isolation, "isolation_keeps": KEPT[isolation]}
    details["idle"] = f"asleep since {asleep_since:%Y-%m-%dT%H:%M:%SZ}" if asleep_since else ""
    return WorkerInfo(
        version=backend.__version__,
        model=model.config.identity,
        context=facts.context_length,
        device=facts.device,
        blas=blas,
        mode="batched" if facts.batchable and isolation != "strict" else "serial",
        uptime_s=uptime_s,
        cache=picture.cache if picture else {},
        queue=_told(_queue(picture, in_flight), isolation) if picture else {},
        details={name: text for name, text in details.items() if text},
    )


def _embedding(pooled: PooledPreparer) -> str:
    """What Embedding does here, or why it does nothing."""
    if pooled.unsupported:
        return pooled.unsupported
    length = ", length 1" if pooled.normalize and pooled.pooling != "none" else ""
    return f"pooling {pooled.pooling}, width {pooled.facts.hidden_width}{length}"


def drafters_in_words(model: RequestPreparer, picture: EnginePicture | None) -> str:
    """Who guesses at tokens to come, or why nobody does; why a draft model does no more."""
    engine, reason = model.config.engine, model.facts.speculation_reason
    fault = picture.draft_fault if picture else ""
    drafters = engine.drafters if model.facts.drafts and not fault else engine.drafters - {Drafter.MODEL}
    uncached = 0 in (model.config.cache.max_sequences, model.config.cache.max_bytes)
    if engine.isolation == "strict" or uncached or model.facts.uncached_reason:
        drafters -= {Drafter.CACHE}  # there is nothing for it to know
    stopped = f"draft {fault}" if fault else ""
    if not drafters:
        return f"off: {stopped}" if stopped else "off"
    if reason:
        return f"off: {reason}"
    words = f"{', '.join(drafter for drafter in Drafter if drafter in drafters)}; up to {engine.max_draft} tokens"
    return f"{words}; {stopped}" if stopped else words


def _told(queue: dict[str, float], isolation: Isolation) -> dict[str, float]:
    """Under strict nobody learns of the cache."""
    return {name: value for name, value in queue.items() if isolation != "strict" or "cached" not in name}


def _queue(picture: EnginePicture, in_flight: int) -> dict[str, float]:
    counters = picture.counters
    return {
        "in_flight": in_flight,
        "waiting": picture.waiting,
        "prefilling": picture.prefilling,
        "decoding": picture.decoding,
        "storing": picture.storing,
        "requests": counters.requests,
        "failed": counters.failed,
        "cancelled": counters.cancelled,
        "shared_waits": counters.shared_waits,
        "preemptions": counters.preemptions,
        "disk_waits_ended": counters.disk_waits_ended,
        "prompt_tokens": counters.prompt_tokens,
        "cached_tokens": counters.cached_tokens,
        "prefilled_tokens": counters.prefilled_tokens,
        "generated_tokens": counters.generated_tokens,
        "decode_steps": counters.decode_steps,
        "verify_passes": counters.verify_passes,
        "drafted_tokens": counters.drafted_tokens.total(),
        "accepted_tokens": counters.accepted_tokens.total(),
        **{f"drafted_tokens.{drafter}": count for drafter, count in counters.drafted_tokens.items()},
        **{f"accepted_tokens.{drafter}": count for drafter, count in counters.accepted_tokens.items()},
        **{f"speculation.{name}": figure for name, figure in picture.speculation.items()},
        "kv_budget_bytes": picture.budget,
        "live_kv_bytes": picture.live_kv,
        "cached_kv_bytes": picture.cached_kv,
        "cached_draft_kv_bytes": picture.cached_draft_kv,
    }
