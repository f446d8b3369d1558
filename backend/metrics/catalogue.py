"""Every metric: its name, its kind, what it says. A figure that has no row here is told nobody.

The names are vLLM's wherever the meaning is, with our prefix in place of theirs. A new part of the engine has a group
of rows of its own, and fields of `engine.picture.Counters` to fill them. Labels take a few words of our own and never a
client's: no prompt, name, tenant or conversation. docs/operations.md has the same list, and a test compares the two.
"""

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "mlx_worker_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. `label` is the one that a count by words has."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""

    @property
    def exposed(self) -> str:
        """Its name in a scrape."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


REQUESTS: Final = (
    Metric("requests_accepted", "counter", "Requests that the engine took, Create of the prompt cache included."),
    Metric("request_success", "counter", "Answers that were finished, by their finish reason.", "finished_reason"),
    Metric("requests_failed", "counter", "Requests that the engine took and ended with an error."),
    Metric("requests_cancelled", "counter", "Requests that ended because a client left, or a model was unloaded."),
    Metric("num_requests_in_flight", "gauge", "Requests accepted and not ended, those being prepared included."),
    Metric("num_requests_running", "gauge", "Requests that have a row: prefilling or decoding."),
    Metric("num_requests_waiting", "gauge", "Requests in the queue."),
    Metric("num_rows_prefilling", "gauge", "Rows whose prompt is being prefilled, or waits for a disk or another row."),
    Metric("num_rows_decoding", "gauge", "Rows that get a token a step."),
    Metric("num_preemptions", "counter", "Times that a row had to leave, for memory or for a higher priority."),
    Metric("num_priority_preemptions", "counter", "Those of them for a higher priority."),
    Metric("time_to_first_token_seconds", "histogram", "From the acceptance to the first token."),
    Metric("inter_token_latency_seconds", "histogram", "Between one token of an answer and the next."),
    Metric("e2e_request_latency_seconds", "histogram", "From the acceptance to the end, of finished answers."),
    Metric("request_queue_time_seconds", "histogram", "From the acceptance to the row, of finished answers."),
    Metric("request_prefill_time_seconds", "histogram", "From the row to the first decode step, of finished answers."),
    Metric("request_decode_time_seconds", "histogram", "From the first decode step to the end, of finished answers."),
    Metric("request_prompt_tokens", "histogram", "Tokens of the prompts, cached or not, of finished answers."),
    Metric("request_generation_tokens", "histogram", "Tokens of finished answers, end-of-sequence not counted."),
)
TOKENS: Final = (
    Metric("prompt_tokens", "counter", "Tokens of the prompts that the engine took, cached or not."),
    Metric("prefilled_tokens", "counter", "Prompt tokens that were computed."),
    Metric("generation_tokens", "counter", "Tokens generated, end-of-sequence not counted."),
    Metric("decode_steps", "counter", "Decode steps, of all rows together."),
    Metric("decode_seconds", "counter", "Time spent in them."),
)
SPECULATION: Final = (
    Metric("spec_decode_passes", "counter", "Passes over rows of which one at least had guessed tokens."),
    Metric(
        "spec_decode_num_draft_tokens", "counter", "Guessed tokens that passes looked at, by who guessed.", "drafter"
    ),
    Metric("spec_decode_num_accepted_tokens", "counter", "Those of them that were drawn.", "drafter"),
)
PROMPT_CACHE: Final = (
    Metric("prefix_cache_queries", "counter", "Prompt tokens that were looked up in the prompt cache."),
    Metric("prefix_cache_hits", "counter", "Those of them that it had."),
    Metric("prefix_cache_lookups", "counter", "Prompts looked up, by why no more of each was cached.", "reason"),
    Metric("shared_prefills", "counter", "Prompts that waited for another's prefill of the same text."),
    Metric("prompt_cache_inserts", "counter", "Sequences that were stored."),
    Metric("prompt_cache_stored_tokens", "counter", "Tokens that were new in them."),
    Metric("prompt_cache_evicted_bytes", "counter", "Bytes that were evicted from memory."),
    Metric("prompt_cache_sequences", "gauge", "Sequences in memory that are no prefix of another."),
    Metric("prompt_cache_tokens", "gauge", "Tokens in memory, a shared prefix once."),
)
DISK: Final = (
    Metric("prompt_cache_disk_reads", "counter", "Prompts that something was read for from the disk."),
    Metric("prompt_cache_disk_hits", "counter", "Those of them that got tokens from there."),
    Metric("prompt_cache_disk_waits_ended", "counter", "Waits for the disk that were given up."),
    Metric("prompt_cache_disk_read_tokens", "counter", "Tokens read."),
    Metric("prompt_cache_disk_read_bytes", "counter", "Bytes read."),
    Metric("prompt_cache_disk_writes", "counter", "Files written."),
    Metric("prompt_cache_disk_written_bytes", "counter", "Bytes written."),
    Metric("prompt_cache_disk_dropped", "counter", "Files that were to be written and were not."),
    Metric("prompt_cache_disk_evictions", "counter", "Files removed to make room."),
    Metric("prompt_cache_disk_quarantined", "counter", "Bad files that were put aside."),
    Metric("prompt_cache_disk_bytes", "gauge", "Bytes of the files."),
    Metric("prompt_cache_disk_files", "gauge", "Files."),
)
MEMORY: Final = (
    Metric("kv_budget_bytes", "gauge", "Key/value bytes at most: live, cached and copies."),
    Metric("kv_live_bytes", "gauge", "Key/value bytes of the rows."),
    Metric("kv_cached_bytes", "gauge", "Key/value bytes of the prompt cache in memory."),
    Metric("kv_cached_draft_bytes", "gauge", "Those of them of a draft model."),
    Metric("kv_cache_usage_perc", "gauge", "Live key/value bytes as a part of the budget; 1 is all of it."),
    Metric("weights_bytes", "gauge", "Bytes of the weights; 0 while the model is asleep."),
    Metric("memory_active_bytes", "gauge", "What MLX has in use."),
    Metric("memory_peak_bytes", "gauge", "The most that MLX has had in use."),
    Metric("memory_buffer_pool_bytes", "gauge", "Freed buffers that MLX keeps for reuse."),
    Metric("process_resident_memory_bytes", "gauge", "The process in memory; where the system does not say, its peak."),
)
WORKER: Final = (
    Metric("engine_up", "gauge", "1 while the engine thread works."),
    Metric("model_loaded", "gauge", "1 while a model is loaded, asleep or not."),
    Metric("model_asleep", "gauge", "1 while the loaded model is without its weights."),
)
CALLS: Final = Metric("calls", "counter", "gRPC calls that ended, by method and status code.")
CALL_LABELS: Final = ("method", "code")
INFO: Final = Metric("info", "gauge", "The worker: its version and MLX's.")
MODEL_INFO: Final = Metric("model_info", "gauge", "The loaded model, and how it is served.")

FIGURES: Final = {
    metric.name: metric
    for group in (REQUESTS, TOKENS, SPECULATION, PROMPT_CACHE, DISK, MEMORY, WORKER)
    for metric in group
}
METRICS: Final = (*FIGURES.values(), CALLS, INFO, MODEL_INFO)
