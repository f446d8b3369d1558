"""Where a model may be: which of several names is an existing directory, or else a repository of a hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from backend.core.errors import ModelLoadFailed

_HUB_PREFIXES = ("huggingface://", "hf://", "https://huggingface.co/", "http://huggingface.co/")
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
    if candidate.startswith(_HUB_PREFIXES):
        return None
    if candidate.startswith("file://"):
        return Path(unquote(candidate.removeprefix("file://")))
    return Path(candidate).expanduser() if candidate.startswith("~/") else Path(candidate)


def _directory_of(path: Path) -> Path:
    if path.is_dir():
        return path.absolute()
    if path.name.endswith(_MEMBER_SUFFIXES):
        return path.absolute().parent
    raise ModelLoadFailed(f"{path}: is a file; a directory with config.json and model*.safetensors is needed")


def _repository_of(candidate: str) -> str | None:
    name = candidate.strip()
    for prefix in _HUB_PREFIXES:
        name = name.removeprefix(prefix)
    name = name.strip("/") if candidate.startswith(_HUB_PREFIXES) else name
    return name if _REPOSITORY.fullmatch(name) else None
