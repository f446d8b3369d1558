"""What an operator may know of the engine. Any thread may ask: it is made of one picture and of frozen facts.

Totals alone, since the process began: nothing here is of one request, client or tenant. Under `strict`, where nobody
learns what the prompt cache has, there is nothing of it here either.
"""

from collections.abc import Mapping

import backend
from backend.config import Drafter
from backend.core.histogram import Histogram
from backend.core.reports import EngineFigures
from backend.engine.picture import Counters, EnginePicture
from backend.engine.preparing.requests import RequestPreparer
from backend.engine.reports import library_versions, peak_bytes, resident_bytes

# A client that may load chooses the name, and must not choose the size of what is told.
MAX_WORDS = 256
_STORE_NOW = {
    "n_sequences": "prompt_cache_sequences",
    "n_tokens": "prompt_cache_tokens",
    "disk.bytes": "prompt_cache_disk_bytes",
    "disk.files": "prompt_cache_disk_files",
}
_STORE_TOTALS = {
    "inserts": "prompt_cache_inserts",
    "tokens_stored": "prompt_cache_stored_tokens",
    "evicted_bytes": "prompt_cache_evicted_bytes",
    "disk.reads": "prompt_cache_disk_reads",
    "disk.hits": "prompt_cache_disk_hits",
    "disk.tokens_read": "prompt_cache_disk_read_tokens",
    "disk.bytes_read": "prompt_cache_disk_read_bytes",
    "disk.writes": "prompt_cache_disk_writes",
    "disk.bytes_written": "prompt_cache_disk_written_bytes",
    "disk.dropped": "prompt_cache_disk_dropped",
    "disk.evicted": "prompt_cache_disk_evictions",
    "disk.quarantined": "prompt_cache_disk_quarantined",
}


def engine_figures(
    model: RequestPreparer | None, picture: EnginePicture | None, *, alive: bool, asleep: bool, in_flight: int
) -> EngineFigures:
    """The figures as of the last picture; but for totals, of a model only where one is loaded."""
    versions = library_versions()
    worker = {"version": backend.__version__, "mlx": versions["mlx"], "mlx_lm": versions["mlx-lm"]}
    numbers: dict[str, float] = {
        "engine_up": alive,
        "model_loaded": model is not None,
        "model_asleep": asleep,
        "process_resident_memory_bytes": resident_bytes() or peak_bytes(),
    }
    if picture is None:
        return EngineFigures(worker=worker, numbers=numbers)
    totals = picture.totals
    numbers |= {
        "memory_active_bytes": picture.active_bytes,
        "memory_peak_bytes": picture.peak_bytes,
        "memory_buffer_pool_bytes": picture.buffer_pool,
    }
    numbers |= _totals(totals)
    if picture.tells:
        numbers |= _cache_totals(totals, picture)
    if model is not None:
        numbers |= _rows(picture, in_flight) | (_cache_now(picture) if picture.tells else {})
    counts: dict[str, Mapping[str, int]] = {
        "request_success": totals.finished,
        "spec_decode_num_draft_tokens": _by_drafter(totals.drafted_tokens),
        "spec_decode_num_accepted_tokens": _by_drafter(totals.accepted_tokens),
    }
    if picture.tells:
        counts["prefix_cache_lookups"] = totals.cache_reasons
    return EngineFigures(
        worker=worker,
        model=_words(model) if model is not None else {},
        numbers=numbers,
        counts=counts,
        histograms=_histograms(totals),
    )


def _by_drafter(counts: Mapping[str, int]) -> dict[str, int]:
    """With those that have guessed nothing yet: a counter that is only there later has no rate when it begins."""
    return {drafter.value: counts.get(drafter.value, 0) for drafter in Drafter}


def _words(model: RequestPreparer) -> dict[str, str]:
    facts, engine = model.facts, model.config.engine
    batched = facts.batchable and engine.isolation != "strict"
    return {
        "model_name": model.config.identity[:MAX_WORDS],
        "architecture": facts.architecture[:MAX_WORDS],
        "device": facts.device,
        "mode": "batched" if batched else "serial",
        "isolation": engine.isolation,
        "context": str(facts.context_length),
    }


def _rows(picture: EnginePicture, in_flight: int) -> dict[str, float]:
    return {
        "num_requests_in_flight": in_flight,
        "num_requests_running": picture.prefilling + picture.decoding,
        "num_requests_waiting": picture.waiting,
        "num_rows_prefilling": picture.prefilling,
        "num_rows_decoding": picture.decoding,
        "weights_bytes": picture.weights,
        "kv_budget_bytes": picture.budget,
        "kv_live_bytes": picture.live_kv,
        "kv_cache_usage_perc": picture.live_kv / picture.budget if picture.budget else 0.0,
    }


def _totals(counters: Counters) -> dict[str, float]:
    return {
        "prompt_tokens": counters.prompt_tokens,
        "prefilled_tokens": counters.prefilled_tokens,
        "generation_tokens": counters.generated_tokens,
        "requests_accepted": counters.requests,
        "requests_failed": counters.failed,
        "requests_cancelled": counters.cancelled,
        "num_preemptions": counters.preemptions,
        "num_priority_preemptions": counters.priority_preemptions,
        "decode_steps": counters.decode_steps,
        "decode_seconds": counters.decode_seconds,
        "spec_decode_passes": counters.verify_passes,
    }


def _cache_now(picture: EnginePicture) -> dict[str, float]:
    store = {name: picture.cache[key] for key, name in _STORE_NOW.items() if key in picture.cache}
    return store | {"kv_cached_bytes": picture.cached_kv, "kv_cached_draft_bytes": picture.cached_draft_kv}


def _cache_totals(counters: Counters, picture: EnginePicture) -> dict[str, float]:
    before, now = picture.before.cache, picture.cache
    known = before.keys() | now.keys()
    store = {name: before.get(key, 0.0) + now.get(key, 0.0) for key, name in _STORE_TOTALS.items() if key in known}
    return store | {
        "prefix_cache_queries": counters.looked_up_tokens,
        "prefix_cache_hits": counters.cached_tokens,
        "shared_prefills": counters.shared_waits,
        "prompt_cache_disk_waits_ended": counters.disk_waits_ended,
    }


def _histograms(counters: Counters) -> Mapping[str, Histogram]:
    timings = counters.timings
    return {
        "time_to_first_token_seconds": timings.first_token,
        "inter_token_latency_seconds": timings.between_tokens,
        "e2e_request_latency_seconds": timings.request,
        "request_queue_time_seconds": timings.queue,
        "request_prefill_time_seconds": timings.prefill,
        "request_decode_time_seconds": timings.decode,
        "request_prompt_tokens": timings.prompt_tokens,
        "request_generation_tokens": timings.generated_tokens,
    }
