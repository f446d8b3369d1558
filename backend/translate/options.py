"""`ModelOptions` into `ModelConfig`.

Options and EngineArgs share one table of keys. A later source wins: the worker's own settings, the wire's
fields, Options, EngineArgs.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from backend.config import ALL_DRAFTERS, CacheConfig, Drafter, EngineConfig, ModelConfig, PooledConfig
from backend.core.errors import InvalidRequest, ModelLoadFailed
from backend.core.request import Json, Sampling
from backend.output.parser_names import reasoning_parsers, tool_parsers
from backend.pb import backend_pb2 as pb
from backend.translate import option_values as read
from backend.translate.model_path import adapter_of, candidates_of, draft_candidates_of
from backend.translate.strict_json import parse_object

# What hosts send where nobody set a context; an explicit 4096 looks the same.
HOST_UNSET_CONTEXT = 4096

# Key -> (where it goes: a field of ModelConfig, or of one of its parts; reader).
OPTIONS: Final[Mapping[str, tuple[str, read.Reader]]] = {
    "context_size": ("context", read.integer(1)),
    "use_context_size": ("use_context_size", read.flag),
    "max_kv_size": ("max_kv_size", read.integer_or_none(0, 0)),
    "max_tokens": ("default_max_tokens", read.integer_or_none(-1, 0)),
    "revision": ("revision", read.text),
    "tokenizer": ("tokenizer", read.text),
    "dtype": ("dtype", read.dtype),
    "trust_remote_code": ("trust_remote_code", read.flag),
    "chat_template": ("chat_template", read.text),
    "chat_template_file": ("chat_template_file", read.text),
    "chat_template_kwargs": ("template_kwargs", read.template_kwargs),
    "tool_parser": ("tool_parser", read.parser_name(tool_parsers)),
    "reasoning_parser": ("reasoning_parser", read.parser_name(reasoning_parsers)),
    "prompt_cache_size": ("cache.max_sequences", read.auto_or(read.integer(0))),
    "max_cache_entries": ("cache.max_sequences", read.auto_or(read.integer(0))),
    "prompt_cache_bytes": ("cache.max_bytes", read.auto_or(read.size)),
    "prompt_cache_dir": ("cache.directory", read.text),
    "prompt_cache_disk_bytes": ("cache.disk_bytes", read.size),
    "prompt_cache_disk_daily_bytes": ("cache.disk_daily_bytes", read.off_or(read.size)),
    "prompt_cache_all": ("cache.keep_answers", read.flag),
    "cache_kv_bits": ("cache.kv_bits", read.off_or(read.one_of_numbers(4, 8))),
    "strip_agent_header": ("cache.strip_agent_header", read.flag),
    "isolation": ("engine.isolation", read.one_of("performance", "balanced", "strict")),
    "conversation_idle_s": ("cache.conversation_idle_s", read.off_or(read.number(0, 1e9))),
    "max_conversations": ("cache.max_conversations", read.integer(1, 1 << 20)),
    "max_rows": ("engine.max_rows", read.integer(1, 1024)),
    "parallel": ("engine.max_rows", read.integer(1, 1024)),
    "queue_size": ("engine.queue_size", read.integer(0)),
    "prefill_chunk": ("engine.prefill_chunk", read.auto_or(read.integer(1, 1 << 16))),
    "kv_bytes": ("engine.kv_bytes", read.auto_or(read.size)),
    "kv_bits": ("engine.kv_bits", read.off_or(read.one_of_numbers(4, 8))),
    "kv_group_size": ("engine.kv_group_size", read.one_of_numbers(32, 64)),
    "quantized_kv_start": ("engine.quantized_kv_start", read.integer(0)),
    "memory_share": ("engine.memory_share", read.number(0.01, 1)),
    "wired": ("engine.wired_bytes", read.auto_or(read.size_or_off)),
    "speculation": ("engine.drafters", read.drafters),
    "max_draft": ("engine.max_draft", read.integer(1, 32)),
    "ranks": ("engine.ranks", read.one_of("auto", "tensor", "pipeline")),
    "sampler": ("engine.sampler", read.one_of("auto", "host", "device")),
    "warm_up": ("engine.warm_up", read.one_of("auto", "on", "off")),
    "model_idle_s": ("engine.model_idle_s", read.off_or(read.number(0, 1e6))),
    "watchdog_s": ("engine.watchdog_s", read.off_or(read.number(0, 1e6))),
    "reader_buffer_bytes": ("engine.reader_buffer_bytes", read.size),
    "reader_patience_s": ("engine.reader_patience_s", read.number(0, 1e6)),
    "pooling": ("pooled.pooling", read.auto_or(read.one_of("last", "mean", "none"))),
    "embd_normalize": ("pooled.normalize", read.auto_or(read.euclidean)),
    "embedding_prompt": ("pooled.prompt", read.text),
    "rerank": ("pooled.rerank", read.auto_or(read.one_of("yes_no", "cosine"))),
    "rerank_instruction": ("pooled.instruction", read.text),
    "top_k": ("defaults.top_k", read.integer_or_none(-1, 0)),
    "top_p": ("defaults.top_p", read.number(0, 1)),
    "min_p": ("defaults.min_p", read.number(0, 1)),
    "typical_p": ("defaults.typical_p", read.number(0, 1)),
    "xtc_probability": ("defaults.xtc_probability", read.number(0, 1)),
    "xtc_threshold": ("defaults.xtc_threshold", read.number(0, 0.5)),
    "repetition_penalty": ("defaults.repetition_penalty", read.number(0.01, 100)),
    "repeat_last_n": ("defaults.penalty_window", read.integer_or_none(-1, -1)),
    "presence_penalty": ("defaults.presence_penalty", read.number(-2, 2)),
    "frequency_penalty": ("defaults.frequency_penalty", read.number(-2, 2)),
}

# Understood, and without use: every request has a value of its own for these.
ALWAYS_IN_REQUESTS = frozenset({"temperature", "seed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDefaults:
    """The worker's own settings, which a load may override (code execution only with both).

    Attributes:
        file_roots: Directories that any load may read templates, tokenizers and adapters from.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    allow_remote_code: bool = False
    file_roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """A load, and one line for each thing in it that will not be done."""

    config: ModelConfig
    warnings: tuple[str, ...] = ()


def load_request(wire: pb.ModelOptions, defaults: LoadDefaults) -> LoadRequest:
    """What LoadModel asks for. Looks for nothing on disk: a disk may not answer.

    Raises:
        ModelLoadFailed: An option is broken; names the field and the key.
    """
    warnings: list[str] = []
    values = _fields_of(wire) | _options_of(wire.Options, warnings) | _engine_args_of(wire.EngineArgs)
    values["context"] = _context_of(wire, values)
    if values.get("trust_remote_code") and not defaults.allow_remote_code:
        warnings.append("TrustRemoteCode: this worker was not started with --allow-remote-code")
        values["trust_remote_code"] = False
    drafters = values.get("engine.drafters", defaults.engine.drafters)
    if wire.DraftModel and Drafter.MODEL in drafters:
        values["draft_candidates"] = draft_candidates_of(wire)
    elif wire.DraftModel:
        warnings.append("DraftModel: not loaded, for speculation is not to use it")
    elif Drafter.MODEL in values.get("engine.drafters", ()) and drafters != ALL_DRAFTERS:
        raise ModelLoadFailed("speculation: draft needs a DraftModel, and none is given")
    values.pop("use_context_size", None)
    return LoadRequest(config=_config(wire, values, defaults), warnings=tuple(warnings))


def _config(wire: pb.ModelOptions, values: dict[str, Any], defaults: LoadDefaults) -> ModelConfig:
    parts: dict[str, dict[str, Any]] = {"engine": {}, "cache": {}, "pooled": {}, "defaults": {}, "": {}}
    for target, value in values.items():
        part, _, name = target.rpartition(".")
        parts[part][name] = value
    try:
        return ModelConfig(
            identity=wire.Model,
            candidates=candidates_of(wire),
            adapter=adapter_of(wire),
            model_path=wire.ModelPath,
            file_roots=tuple(filter(None, (wire.ModelPath, *defaults.file_roots))),
            engine=replace(defaults.engine, **parts["engine"]),
            cache=replace(defaults.cache, **parts["cache"]),
            pooled=PooledConfig(**parts["pooled"]),
            defaults=replace(Sampling(), **parts["defaults"]),
            **parts[""],
        )
    except InvalidRequest as error:
        raise ModelLoadFailed(f"Options: {error.message}") from error


def _fields_of(wire: pb.ModelOptions) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if wire.Tokenizer:
        values["tokenizer"] = wire.Tokenizer
    if wire.TrustRemoteCode:
        values["trust_remote_code"] = True
    if wire.DType:
        values["dtype"] = _read("DType", read.dtype, wire.DType)
    if wire.Reranking or wire.Embeddings:
        values["pooled.made_for"] = "reranking" if wire.Reranking else "embeddings"
    return values


def _context_of(wire: pb.ModelOptions, values: Mapping[str, Any]) -> int | None:
    """Tokens that prompt and answer may take; None is what the model was trained for."""
    for name, value in (("MaxModelLen", wire.MaxModelLen), ("ContextSize", wire.ContextSize)):
        if value < 0:
            raise ModelLoadFailed(f"{name}: must not be negative, is {value}")
    if wire.MaxModelLen > 0:
        return wire.MaxModelLen
    if "context" in values:
        context: int = values["context"]
        return context
    meant = values.get("use_context_size", wire.ContextSize != HOST_UNSET_CONTEXT)
    return wire.ContextSize if meant and wire.ContextSize > 0 else None


def _options_of(options: Iterable[str], warnings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for option in options:
        key, _, value = option.partition(":")
        key = key.strip()
        if key in OPTIONS:
            target, reader = OPTIONS[key]
            values[target] = _read(f"Options[{key}]", reader, value.strip())
        elif key in ALWAYS_IN_REQUESTS:
            warnings.append(f"Options[{key}]: not used, every request has a value of its own (its zero is one)")
        elif key:
            unknown.append(re.sub(r"[^\w.-]", "?", key)[:64])
    if unknown:
        warnings.append(f"Options: unknown keys ignored: {', '.join(dict.fromkeys(unknown))}")
    return values


def _engine_args_of(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        arguments = parse_object("EngineArgs", text, max_bytes=read.MAX_JSON_BYTES)
    except InvalidRequest as error:
        raise ModelLoadFailed(error.message) from error
    values: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in OPTIONS:
            raise ModelLoadFailed(f"EngineArgs: unknown key {key[:64]!r}")
        target, reader = OPTIONS[key]
        values[target] = _read(f"EngineArgs[{key}]", reader, value)
    return values


def _read(name: str, reader: read.Reader, value: Json) -> Any:
    try:
        return reader(value)
    except read.OptionValueError as error:
        raise ModelLoadFailed(f"{name}: {error}") from None
