"""The directory of everything a load names: the model, an adapter, another tokenizer."""

from collections.abc import Callable
from pathlib import Path

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.loading.download import MODEL_FILES, TOKENIZER_FILES, download
from backend.engine.loading.progress import Progress
from backend.engine.loading.resolve import Local, resolve


def locate_model(
    config: ModelConfig, *, progress: Progress | None = None, cancelled: Callable[[], bool] = lambda: False
) -> Path:
    """The model's directory, downloaded first if it is a hub repository. Any thread; may take long.

    Raises:
        ModelLoadFailed: Naming the path or the repository.
    """
    place = resolve(config.candidates)
    if isinstance(place, Local):
        return place.path
    patterns = (*MODEL_FILES, "*.py") if config.trust_remote_code else MODEL_FILES
    return download(
        place.repository, revision=config.revision, patterns=patterns, progress=progress, cancelled=cancelled
    )


def locate_extra(field: str, name: str, model: Path, *, cancelled: Callable[[], bool]) -> Path | None:
    """The directory of an adapter or a tokenizer: a path, one below the model's directory, or a repository.

    Returns:
        None if `name` is empty.

    Raises:
        ModelLoadFailed: Naming the field.
    """
    if not name:
        return None
    candidates = (name,) if name.startswith("/") else (str(model / name), name)
    try:
        place = resolve(candidates)
    except ModelLoadFailed as error:
        raise ModelLoadFailed(f"{field}: {error.message}") from None
    if isinstance(place, Local):
        return place.path
    patterns = (*TOKENIZER_FILES, "adapters.safetensors")
    return download(place.repository, revision="", patterns=patterns, progress=None, cancelled=cancelled)
