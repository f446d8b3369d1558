"""Configuration as frozen values; where each comes from (flag, environment, LoadModel) is the caller's matter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from backend.core.pooled import Pooling
from backend.core.request import Json, Sampling

# Where the bearer token may come from; no process that the worker starts gets them.
TOKEN_VARIABLES = ("LOCALAI_GRPC_AUTH_TOKEN", "MLX_WORKER_TOKEN")

SamplerBackend = Literal["auto", "host", "device"]
WarmUp = Literal["auto", "on", "off"]
LogFormat = Literal["text", "json"]
FLUSH_SECONDS = 3.0
"""What a disk gets of the prompt cache when its model goes; a host that stops a worker does not wait for long."""
Isolation = Literal["performance", "balanced", "strict"]


Sharding = Literal["auto", "tensor", "pipeline"]


class Drafter(StrEnum):
    """What guesses at tokens to come: the row's own text, what the prompt cache has, its grammar, another model.

    The words are those of the option `speculation`, of Info and of the metrics.
    """

    TEXT = "ngram"
    CACHE = "cache"
    GRAMMAR = "grammar"
    MODEL = "draft"


ALL_DRAFTERS = frozenset(Drafter)
"""Those of them that there is something for: `MODEL` where a draft model is given."""
RerankWay = Literal["yes_no", "cosine"]
STRICT_CHUNK = 128
"""Under `strict` prefill chunks, and what is used of a named prefix, end at multiples of this many tokens: so the bits
of an answer are the same whether there was a name or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The gRPC side.

    Attributes:
        address: `host:port` or `unix:/path`.
        token: Bearer token that every RPC must carry; empty is none.
        max_message_bytes: Of a message in and out; requests have a limit of their own beside it.
        tls_client_ca: PEM file of those whose certificates clients must show; empty: clients show none.
        reflection: None is on for loopback and unix sockets, off elsewhere.
        grace_s: Seconds that running requests get at SIGTERM.
        parent_watch_s: Interval of the parent-death watch; None is off.
    """

    address: str = "127.0.0.1:50051"
    token: str = ""
    max_message_bytes: int = 50 << 20
    reflection: bool | None = None
    require_tls: bool = False
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    grace_s: float = 10.0
    parent_watch_s: float | None = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The operator's port.

    Attributes:
        port: None serves nothing, 0 is any free one.
        address: Of the interface; whoever reaches it can read everything there.
    """

    port: int | None = None
    address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The engine thread.

    Attributes:
        isolation: What requests share. `performance`: batches, the prompt cache inside a tenant, and prefixes that were
            named without a tenant. `balanced`: the same without those. `strict`: nothing but named prefixes of their
            tenant; one request at a time, and nothing of it stays.
        max_rows: Requests that decode together.
        queue_size: Requests that may wait for a row; one more is refused.
        prefill_chunk: Tokens of a prefill chunk; chunks end at multiples of it in the prompt. None takes what is fast
            on the device.
        kv_bytes: Bytes of live and cached KV, copies included, at most; None takes a share of what the device has left.
        memory_share: Of the device's memory, what is this worker's, where several live on one device.
        wired_bytes: Bytes that the system must not page out, where the device has such a thing; None takes weights
            and KV, 0 wires nothing.
        sampler: `host` samples with numpy, `device` with MLX one step ahead; `auto` takes host on a CPU.
        warm_up: Whether a load runs every kind of step once, so that no first request waits for kernels to be compiled;
            `auto` does on a GPU. With `off` the processes for templates and grammars begin when they are needed.
        model_idle_s: So long after the last request the weights are dropped, until the next one; None is never.
        progress_s: Seconds between two log lines on how far a load or a long prompt is.
        watchdog_s: A step that takes longer is a hang and ends the process; None is off.
        reader_buffer_bytes: Unread output of one request at most; a reader over it for `reader_patience_s` fails.
        kv_bits: Rows hold their keys and values as codes of so many bits; None holds the numbers themselves.
        kv_group_size: Features of a head that share a scale and a bias, of rows' codes and of the prompt cache's.
        quantized_kv_start: Tokens below which a row holds numbers all the same; without use unless `kv_bits` is set.
        drafters: Whose guesses a pass may look at; none decodes a token a step.
        max_draft: Guessed tokens of a row that a pass looks at, at most.
        ranks: How several ranks divide a model: by its heads, by its layers, or as it can be.
    """

    isolation: Isolation = "performance"
    max_rows: int = 32
    queue_size: int = 1024
    prefill_chunk: int | None = None
    kv_bytes: int | None = None
    memory_share: float = 1.0
    wired_bytes: int | None = None
    sampler: SamplerBackend = "auto"
    warm_up: WarmUp = "auto"
    model_idle_s: float | None = None
    progress_s: float = 5.0
    watchdog_s: float | None = 600.0
    reader_buffer_bytes: int = 4 << 20
    reader_patience_s: float = 60.0

    def rows_together(self, *, batchable: bool) -> int:
        """Requests that decode together, of a model that can be batched or not."""
        return self.max_rows if batchable and self.isolation != "strict" else 1

    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 0
    drafters: frozenset[Drafter] = ALL_DRAFTERS
    max_draft: int = 16
    ranks: Sharding = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The prompt cache.

    Attributes:
        max_sequences: Stored sequences at most; 0 turns the cache off, None is no limit by count.
        max_bytes: KV bytes at most; None takes a share of what the device has left after the weights.
        directory: Where the prompt cache is kept beyond the process; empty is nowhere.
        disk_bytes: Of the files there, at most.
        disk_daily_bytes: Written there a day at most, by all workers together; None is no limit.
        keep_answers: Keep an answer's KV with its prompt's.
        conversation_idle_s: Seconds after which what a conversation with an id has left is forgotten; None is never.
        max_conversations: Conversations with an id that are kept.
        kv_bits: What is stored are codes of so many bits, whatever the rows hold; None stores what they hold.
    """

    max_sequences: int | None = None
    max_bytes: int | None = None
    directory: str = ""
    disk_bytes: int = 32 << 30
    disk_daily_bytes: int | None = None
    keep_answers: bool = True
    conversation_idle_s: float | None = 3600.0
    max_conversations: int = 100
    strip_agent_header: bool = True
    kv_bits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledConfig:
    """Embedding and Rerank, where the model's own files are not to decide.

    Attributes:
        pooling: None takes the model's; `none` gives every token's vector, for the host to pool.
        normalize: Vectors of whole texts get the length 1; None takes what the model's files say, else they do.
        prompt: The name of that of the model's prompts which goes before a text; empty takes its default.
        rerank: None takes what the model is made for.
        made_for: What the host loads it for; empty where it does not say, and the model's files do.
        instruction: What a document is to do for a query.
    """

    pooling: Pooling | None = None
    normalize: bool | None = None
    prompt: str = ""
    rerank: RerankWay | None = None
    made_for: Literal["", "embeddings", "reranking"] = ""
    instruction: str = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What LoadModel asks for. Two equal configurations are the same load.

    Attributes:
        identity: `ModelOptions.Model`, verbatim: what later requests name.
        candidates: Where the model may be, best first: paths, then a hub id.
        draft_candidates: The same of a second model that guesses tokens for this one; empty for none.
        context: Tokens of prompt and answer at most; None is what the model was trained for.
        max_kv_size: Size of a rotating KV cache; None keeps all.
        model_path: The host's directory of models; empty where it named none.
        file_roots: Directories besides the model's that templates, tokenizers and adapters may be read from.
        dtype: Cast weights to it; empty keeps the checkpoint's, but takes float32 for half precision on a CPU.
        defaults: Sampling where a request's fields are unset.
    """

    identity: str
    candidates: tuple[str, ...]
    draft_candidates: tuple[str, ...] = ()
    revision: str = ""
    context: int | None = None
    max_kv_size: int | None = None
    model_path: str = ""
    file_roots: tuple[str, ...] = ()
    adapter: str = ""
    tokenizer: str = ""
    dtype: str = ""
    chat_template: str = ""
    chat_template_file: str = ""
    trust_remote_code: bool = False
    tool_parser: str = ""
    reasoning_parser: str = ""
    template_kwargs: Mapping[str, Json] = field(default_factory=dict)
    defaults: Sampling = field(default_factory=Sampling)
    default_max_tokens: int | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    pooled: PooledConfig = field(default_factory=PooledConfig)
