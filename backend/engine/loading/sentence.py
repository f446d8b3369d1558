"""How a model wants its hidden states pooled, in the files of sentence-transformers beside it. Any thread."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.core.errors import ModelLoadFailed
from backend.core.pooled import Pooling
from backend.engine.loading.checkpoint import read_json, read_json_list

_POOLINGS: Mapping[str, Pooling] = {"lasttoken": "last", "mean": "mean"}
_MODES: Mapping[str, str] = {
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """What the model's own files say.

    Attributes:
        present: There are such files: it is a model for embeddings.
        pooling: None where they do not say.
        normalize: Whether vectors get the length 1; None where they do not say.
        prompts: What goes before a text, by name.
        default_prompt: The name of the one that goes before every text; empty for none.
        unsupported: What they ask for that is not done here, in words; empty where that is nothing.
    """

    present: bool = False
    pooling: Pooling | None = None
    normalize: bool | None = None
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str = ""
    unsupported: str = ""


def read_sentence_config(directory: Path, check: Callable[[Path], None]) -> SentenceConfig:
    """What the files in the model's directory say; a broken one is unsupported, and no reason not to load.

    Args:
        check: Raises ModelLoadFailed for a file in a folder of it that may not be opened.
    """
    try:
        prompts, default = _prompts(directory)
        if not (directory / "modules.json").is_file():
            return SentenceConfig(prompts=prompts, default_prompt=default)
        pooling, normalize, unsupported = _modules(directory, check)
    except ModelLoadFailed as error:
        return SentenceConfig(present=True, unsupported=error.message)
    return SentenceConfig(
        present=True,
        pooling=pooling,
        normalize=normalize,
        prompts=prompts,
        default_prompt=default,
        unsupported=unsupported,
    )


def _prompts(directory: Path) -> tuple[dict[str, str], str]:
    file = directory / "config_sentence_transformers.json"
    if not file.is_file():
        return {}, ""
    config = read_json(file)
    written = config.get("prompts")
    prompts = {str(k): v for k, v in written.items() if isinstance(v, str)} if isinstance(written, dict) else {}
    default = config.get("default_prompt_name")
    return prompts, default if isinstance(default, str) and default in prompts else ""


def _modules(directory: Path, check: Callable[[Path], None]) -> tuple[Pooling | None, bool, str]:
    """Pooling, whether there is a normalisation, and what is not done here."""
    pooling: Pooling | None = None
    normalize, unsupported = False, ""
    for module in read_json_list(directory / "modules.json"):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            file = directory / str(module.get("path", "")) / "config.json"
            check(file)
            pooling, problem = _pooling(read_json(file))
            unsupported = unsupported or problem
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            unsupported = unsupported or f"modules.json asks for {kind[:64] or 'a module without a type'}"
    return pooling, normalize, unsupported


def _pooling(config: Mapping[str, Any]) -> tuple[Pooling | None, str]:
    """The pooling, and what of it is not done here."""
    modes = _modes(config)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        return None, f"its pooling is {' and '.join(modes)[:64] or 'not named'}"
    left_out = config.get("include_prompt", True) is False
    return _POOLINGS[modes[0]], "its pooling leaves the prompt out" if left_out else ""


def _modes(config: Mapping[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return [named]
    return [mode for key, mode in _MODES.items() if config.get(key) is True]
