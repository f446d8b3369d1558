"""Everything of a load that needs no MLX: files found, looked at and proven readable, and the tokenizer made of them.

All of it comes before the present model is dropped, on a thread that can be left behind: a disk that does not answer
or a tokenizer that does not come to an end costs that one load.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.core.freed_memory import give_back
from backend.engine.loading import checkpoint
from backend.engine.loading.draft_model import check_same_tokens, config_of_draft, of_draft_model
from backend.engine.loading.failures import check_cancelled, guarded
from backend.engine.loading.locate import Local, fetch_extra, locate_model, resolve_extra
from backend.engine.loading.permitted import PermittedFiles
from backend.engine.loading.progress import Progress
from backend.engine.loading.sentence import SentenceConfig, read_sentence_config
from backend.engine.loading.sizes import TEMPLATE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelFiles:
    """What a load is made of. Frozen; crosses from the files thread to the engine's and the prep thread.

    Attributes:
        directory: The model's.
        tokenizer_directory: The model's, or another's.
        adapter: The directory of a LoRA adapter, or None.
        tokenizer: mlx-lm's TokenizerWrapper, chat template overrides applied.
        sentence: What the model's own files say of embeddings.
        draft: What a second model that guesses tokens is made of; None for none.
    """

    directory: Path
    tokenizer_directory: Path
    adapter: Path | None
    tokenizer: Any
    sentence: SentenceConfig
    draft: "ModelFiles | None" = None


def open_files(
    config: ModelConfig, *, progress: Progress | None = None, cancelled: Callable[[], bool] = lambda: False
) -> ModelFiles:
    """Find, download, check and read all that a load names, its weights aside. Any thread; may take long.

    Args:
        progress: Told bytes done and in all of a download, from this thread.
        cancelled: Asked between steps; true ends it.

    Raises:
        ModelLoadFailed: One line that names the file or field.
    """
    try:
        # Names and links are a client's and a stranger's: the system's words are as foreign as a parser's.
        return guarded("files", lambda: _open_files(config, progress, cancelled))
    except ModelLoadFailed as error:
        message = error.message
    # Out here: the exception's frames hold what was read until then.
    gc.collect()
    give_back()
    raise ModelLoadFailed(message)


def _open_files(config: ModelConfig, progress: Progress | None, cancelled: Callable[[], bool]) -> ModelFiles:
    directory = locate_model(config, progress=progress, cancelled=cancelled)
    permitted = PermittedFiles.below((directory, *config.file_roots))
    guarded(str(directory), lambda: permitted.check_directory(directory))
    checkpoint.check_config(directory, trust_remote_code=config.trust_remote_code)
    checkpoint.check_numbers_of(directory, checkpoint.check_weights(directory))
    check_cancelled(cancelled)
    look = partial(_extra, config, directory, permitted, progress, cancelled)
    adapter = look("LoraAdapter", config.adapter)
    if adapter is not None:
        _check_adapter(adapter)
    tokenizer_directory = look("Tokenizer", config.tokenizer) or directory
    check_cancelled(cancelled)
    tokenizer = _tokenizer(config, directory, tokenizer_directory, permitted)
    return ModelFiles(
        directory=directory,
        tokenizer_directory=tokenizer_directory,
        adapter=adapter,
        tokenizer=tokenizer,
        sentence=read_sentence_config(directory, partial(permitted.check_regular, "modules.json")),
        draft=_draft(config, tokenizer, progress, cancelled) if config.draft_candidates else None,
    )


def _draft(config: ModelConfig, tokenizer: Any, progress: Progress | None, cancelled: Callable[[], bool]) -> ModelFiles:
    with of_draft_model():
        files = _open_files(config_of_draft(config), progress, cancelled)
        check_same_tokens(files.directory, tokenizer.get_vocab(), files.tokenizer.get_vocab())
        return files


def _extra(
    config: ModelConfig,
    model: Path,
    permitted: PermittedFiles,
    progress: Progress | None,
    cancelled: Callable[[], bool],
    field: str,
    name: str,
) -> Path | None:
    if not name:
        return None
    place = resolve_extra(field, name, model, config.file_roots)
    if isinstance(place, Local):
        directory = place.path
        permitted.check(field, directory)
    else:
        directory = fetch_extra(place, progress=progress, cancelled=cancelled)
    guarded(f"{field}: {directory}", lambda: permitted.also(directory).check_directory(directory))
    return directory


def _check_adapter(adapter: Path) -> None:
    checkpoint.read_json(adapter / "adapter_config.json")
    weights = adapter / "adapters.safetensors"
    if not weights.is_file():
        raise ModelLoadFailed(f"LoraAdapter: {weights}: no such file")
    checkpoint.check_weight_file(weights)


def _tokenizer(config: ModelConfig, model: Path, directory: Path, permitted: PermittedFiles) -> Any:
    from backend.engine.loading.tokenizer import load_tokenizer  # imports mlx_lm

    template = config.chat_template or _template_of(config, model, permitted)
    return load_tokenizer(
        directory,
        settings=_settings(model),
        template=template,
        trust_remote_code=config.trust_remote_code,
    )


def _template_of(config: ModelConfig, model: Path, permitted: PermittedFiles) -> str:
    """The text of `chat_template_file`: a path, or a name in the model's or the host's directory; empty for none."""
    name = config.chat_template_file
    if not name:
        return ""
    places = [Path(root) / name for root in (model, *config.file_roots)]
    # A name may be too long for the file system, or lead through a directory that is closed to us.
    path = guarded("chat_template_file", lambda: next((place for place in places if place.exists()), places[0]))
    permitted.check_regular("chat_template_file", path, most=TEMPLATE_BYTES)
    return guarded(f"chat_template_file: {path}", lambda: path.read_text(encoding="utf-8"))


def _settings(model: Path) -> Mapping[str, Any]:
    from mlx_lm.utils import load_config

    return guarded(str(model / "config.json"), lambda: load_config(model))
