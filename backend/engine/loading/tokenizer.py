"""The model's tokenizer, as mlx-lm wraps it, with the overrides of the load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_tokenizer as load_wrapped

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.loading.checkpoint import read_json
from backend.engine.loading.failures import guarded

_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json", "vocab.json")


def load_tokenizer(config: ModelConfig, directory: Path, settings: Mapping[str, Any]) -> Any:
    """mlx-lm's TokenizerWrapper for the files in `directory`.

    Args:
        settings: The model's config.json, for the tokens that end an answer.

    Raises:
        ModelLoadFailed: Naming the tokenizer's file, or the template's.
    """
    if not any((directory / name).is_file() for name in _FILES):
        raise ModelLoadFailed(f"{directory}: has no tokenizer ({', '.join(_FILES[:3])})")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            read_json(directory / name)
    extra: dict[str, Any] = {"local_files_only": True}
    if config.trust_remote_code:
        extra["trust_remote_code"] = True
    template = _template(config)
    if template:
        # Given at construction, so that mlx-lm infers tool markers from the template in use.
        extra["chat_template"] = template
    return guarded(
        f"{directory}: tokenizer",
        lambda: load_wrapped(directory, extra, eos_token_ids=_eos_token_ids(settings)),
    )


def _template(config: ModelConfig) -> str:
    if config.chat_template:
        return config.chat_template
    if not config.chat_template_file:
        return ""
    path = Path(config.chat_template_file)
    return guarded(f"chat_template_file: {path}", lambda: path.read_text(encoding="utf-8"))


def _eos_token_ids(settings: Mapping[str, Any]) -> int | list[int] | None:
    """config.json's, which multimodal configurations may nest in `text_config`."""
    nested = settings.get("text_config")
    for scope in (settings, nested if isinstance(nested, Mapping) else {}):
        ids = scope.get("eos_token_id")
        if isinstance(ids, int) or (isinstance(ids, list) and ids):
            return ids
    return None
