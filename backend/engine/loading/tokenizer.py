"""The model's tokenizer, as mlx-lm wraps it, with the overrides of the load."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_tokenizer as load_wrapped
from transformers import PreTrainedConfig
from transformers.utils import logging as transformers_log

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.checkpoint import read_json
from backend.engine.loading.failures import guarded

log = logging.getLogger(__name__)

# What it has to say goes into our log, in our form, and not past it.
transformers_log.disable_default_handler()
transformers_log.enable_propagation()

_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json", "vocab.json")


def load_tokenizer(
    directory: Path, *, settings: Mapping[str, Any], template: str = "", trust_remote_code: bool = False
) -> Any:
    """mlx-lm's TokenizerWrapper for the files in `directory`. Any thread, once mlx_lm is imported.

    Args:
        settings: The model's config.json, for the tokens that end an answer.
        template: A chat template in place of the tokenizer's own.

    Raises:
        ModelLoadFailed: Naming the tokenizer's file.
    """
    file = next((directory / name for name in _FILES if (directory / name).is_file()), None)
    if file is None:
        raise ModelLoadFailed(f"{directory}: has no tokenizer ({', '.join(_FILES[:3])})")
    extra: dict[str, Any] = {"local_files_only": True}
    if trust_remote_code:
        extra["trust_remote_code"] = True
    if template:
        # Given at construction, so that mlx-lm infers tool markers from the template in use.
        extra["chat_template"] = template
    try:
        return guarded(f"{file}: tokenizer", lambda: _load(directory, extra, _eos_token_ids(settings)))
    except ModelLoadFailed:
        # Not before: a large vocabulary takes a tenth of a second, with the interpreter lock held.
        _check_json(directory)
        raise


def _check_json(directory: Path) -> None:
    """Say which file is no JSON, where one is not.

    Raises:
        ModelLoadFailed: Naming it.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            read_json(directory / name)


def _load(directory: Path, extra: dict[str, Any], eos_token_ids: int | list[int] | None) -> Any:
    try:
        return load_wrapped(directory, extra, eos_token_ids=eos_token_ids)
    except Exception as error:
        if not (directory / "tokenizer.json").is_file():
            raise
        log.debug("tokenizer", exc_info=error)
        first = error
    # transformers checks config.json before it looks at the tokenizer, and refuses architectures and entries that
    # mlx-lm knows; an empty configuration in its place leaves the choice to the tokenizer's own files.
    try:
        return load_wrapped(directory, extra | {"config": PreTrainedConfig()}, eos_token_ids=eos_token_ids)
    except Exception:  # noqa: BLE001  the first failure is the one that names a file
        raise first from None


def _eos_token_ids(settings: Mapping[str, Any]) -> int | list[int] | None:
    """config.json's, which multimodal configurations may nest in `text_config`."""
    nested = settings.get("text_config")
    for scope in (settings, nested if isinstance(nested, Mapping) else {}):
        ids = scope.get("eos_token_id")
        if isinstance(ids, int) or (isinstance(ids, list) and ids):
            return ids
    return None
