"""What a load over several ranks takes, and how the other ranks are told of it."""

from dataclasses import fields, replace
from typing import Any, Final

from backend.config import ALL_DRAFTERS, Drafter, EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed

# What a follower needs of a configuration: with it, it finds and divides the same model in the same way.
_MODEL: Final = (
    "identity", "candidates", "revision", "context", "max_kv_size", "model_path", "file_roots", "tokenizer", "dtype",
    "trust_remote_code",
)  # fmt: skip
_ENGINE: Final = ("memory_share", "kv_bytes", "wired_bytes", "prefill_chunk", "progress_s", "ranks")


def refuse_what_does_not_hold(config: ModelConfig) -> None:
    """Raise for what does not work over several ranks.

    Raises:
        ModelLoadFailed: Naming the option.
    """
    engine, cache = config.engine, config.cache
    asked = {
        "LoraAdapter": bool(config.adapter),
        "DraftModel": bool(config.draft_candidates),
        "kv_bits": engine.kv_bits is not None,
        "cache_kv_bits": cache.kv_bits is not None,
        "prompt_cache_dir": bool(cache.directory),
        "model_idle_s": engine.model_idle_s is not None,
        "sampler:device": engine.sampler == "device",
    }
    wrong = [name for name, is_asked in asked.items() if is_asked]
    if wrong:
        raise ModelLoadFailed(f"{', '.join(wrong)}: not over several ranks")


def told(config: ModelConfig) -> dict[str, Any]:
    """What the other ranks are told of a configuration."""
    return {
        "model": {name: getattr(config, name) for name in _MODEL},
        "engine": {name: getattr(config.engine, name) for name in _ENGINE},
        "speculates": bool(config.engine.drafters),
    }


def understood(told: dict[str, Any]) -> ModelConfig:
    """The configuration that a rank was told of."""
    tuples = {one.name for one in fields(ModelConfig) if str(one.type).startswith("tuple")}
    model: dict[str, Any] = {name: tuple(value) if name in tuples else value for name, value in told["model"].items()}
    # Whose guesses they are is rank 0's business; that there may be some has each rank try them out.
    drafters = ALL_DRAFTERS if told["speculates"] else frozenset[Drafter]()
    return ModelConfig(**model, engine=replace(EngineConfig(), drafters=drafters, **told["engine"]))
