"""The way from names to places: of the model, an adapter, another tokenizer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.core.model_source import file_path, hub_path
from backend.engine.loading.download import MODEL_FILES, TOKENIZER_FILES, download
from backend.engine.loading.progress import Progress

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
# A file of a model directory that names the directory.
_MEMBER_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True, slots=True)
class Local:
    """A directory on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the hub that `HF_ENDPOINT` names, such as `owner/name`."""

    repository: str


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
        place.repository,
        revision=config.revision,
        patterns=patterns,
        progress=progress,
        cancelled=cancelled,
        every_s=config.engine.progress_s,
    )


def resolve_extra(field: str, name: str, model: Path, roots: Sequence[str]) -> Local | Hub:
    """Where an adapter or a tokenizer is: a path, one below the model's directory or `roots`, or a repository.

    Raises:
        ModelLoadFailed: Naming the field.
    """
    plain = hub_path(name) or file_path(name)
    candidates = (plain,) if plain.startswith("/") else (*(str(Path(root) / plain) for root in (model, *roots)), plain)
    try:
        return resolve(candidates)
    except ModelLoadFailed as error:
        raise ModelLoadFailed(f"{field}: {error.message}") from None


def fetch_extra(place: Hub, *, progress: Progress | None, cancelled: Callable[[], bool]) -> Path:
    """The directory of a repository that holds an adapter or a tokenizer, downloaded first."""
    patterns = (*TOKENIZER_FILES, "adapters.safetensors")
    return download(place.repository, revision="", patterns=patterns, progress=progress, cancelled=cancelled)


def resolve(candidates: Sequence[str]) -> Local | Hub:
    """The first candidate that exists on disk, else the last one as a hub repository.

    A `.safetensors` or `.json` file stands for its directory. An absolute path never becomes a hub's name.

    Raises:
        ModelLoadFailed: Nothing exists and the last candidate names no repository either.
    """
    named = [candidate for candidate in candidates if candidate.strip()]
    if not named:
        raise ModelLoadFailed("Model: no model is named")
    for candidate in named:
        path = _path_of(candidate)
        # A name that is too long for the file system, or has a NUL, does not exist.
        if path is not None and _exists(path):
            return Local(_directory_of(path))
    repository = _repository_of(named[-1])
    if repository is None:
        raise ModelLoadFailed(f"model path does not exist: {named[-1]}")
    return Hub(repository)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _path_of(candidate: str) -> Path | None:
    if hub_path(candidate) is not None:
        return None
    path = Path(file_path(candidate))
    return path.expanduser() if candidate.startswith("~/") else path


def _directory_of(path: Path) -> Path:
    if path.is_dir():
        return path.absolute()
    if path.name.endswith(_MEMBER_SUFFIXES):
        return path.absolute().parent
    raise ModelLoadFailed(f"{path}: is a file; a directory with config.json and model*.safetensors is needed")


def _repository_of(candidate: str) -> str | None:
    name = candidate.strip()
    name = hub_path(name) or name
    return name if _REPOSITORY.fullmatch(name) else None
