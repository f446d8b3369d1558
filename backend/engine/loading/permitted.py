"""The rule for which files a load may open.

A template or a tokenizer that is read can be read back by clients (ModelMetadata renders it), and a pipe that is
opened may never answer; one of gigabytes takes as much memory, and more. So only regular files of a usual size are
opened; and those whose text can come out lie in the model's own
directory, in the host's models directory, or where the worker's operator allows.

A tokenizer's class chooses the names of its files (`spiece.model`, `bpe.codes`, `merges.txt`), so every file at the
top of a directory is checked, not those of known names.
"""

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.checkpoint import read_json
from backend.engine.loading.failures import guarded
from backend.engine.loading.sizes import check_size

_WEIGHTS = ".safetensors"
# transformers reads every `.jinja` in it as a template that has the file's name.
_TEMPLATES = "additional_chat_templates"
# What these hold is the system's, whatever lies above them.
_ALL = Path("/")
_NEVER = tuple(Path(root) for root in ("/proc", "/sys", "/dev"))
_SHARED_MEMORY = Path("/dev/shm")  # ordinary files, a model's among them


@dataclass(frozen=True, slots=True)
class PermittedFiles:
    """Directories, resolved, below which files may be read."""

    roots: tuple[Path, ...]

    @classmethod
    def below(cls, directories: Iterable[Path | str]) -> "PermittedFiles":
        """Those below any of the directories; of a snapshot in the hub's cache, its blobs too."""
        # A host that names the whole machine as its models directory has named none.
        roots = [root for directory in directories if str(directory) and (root := Path(directory).resolve()) != _ALL]
        blobs = [root.parents[1] / "blobs" for root in roots if root.parent.name == "snapshots"]
        return cls((*roots, *blobs))

    def also(self, directory: Path) -> "PermittedFiles":
        """These, and those below one directory more."""
        return PermittedFiles((*self.roots, *PermittedFiles.below([directory]).roots))

    def check(self, field: str, path: Path) -> None:
        """A file, or a directory, that a load names.

        Raises:
            ModelLoadFailed: It lies elsewhere, or cannot be a file's name; names the field.
        """
        # A NUL and, until Python 3.13, a link to itself are no OSErrors.
        real = guarded(field, path.resolve)
        if not self._holds(real):
            raise ModelLoadFailed(
                f"{field}: {path} is neither in the model's directory nor in ModelPath; "
                "the worker's --allow-files names further directories"
            )

    def check_regular(self, field: str, path: Path, *, most: int | None = None) -> None:
        """As `check`, and that it is a regular file, not a pipe or a device that may never answer, of a usual size.

        Args:
            most: Bytes; None for those of its name's kind.
        """
        self.check(field, path)
        _check_regular(path, most)

    def check_directory(self, directory: Path) -> None:
        """Every file of `directory` that a load may open. Weights may be links to anywhere.

        Raises:
            ModelLoadFailed: Names the first that is no regular file, or a link that leads out, or says that a
                tokenizer's file lies elsewhere.
        """
        for folder in (directory, directory / _TEMPLATES):
            if folder.is_dir():
                for path in sorted(folder.iterdir()):
                    self._check_member(path)
        _check_tokenizer_files(directory / "tokenizer_config.json")

    def _check_member(self, path: Path) -> None:
        if path.is_dir():
            return
        _check_regular(path)
        real = path.resolve()
        if not self._holds(real) and (real.suffix != _WEIGHTS or _is_systems(real)):
            raise ModelLoadFailed(f"{path}: leads out of the model's directory, to {real}")

    def _holds(self, real: Path) -> bool:
        return _below(real, self.roots) and not _is_systems(real)


def _is_systems(path: Path) -> bool:
    return _below(path, _NEVER) and not path.is_relative_to(_SHARED_MEMORY)


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _check_regular(path: Path, most: int | None = None) -> None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ModelLoadFailed(f"{path}: is not a regular file")
        check_size(path, most)
    except OSError as error:
        raise ModelLoadFailed(f"{path}: {error.strerror}") from None


def _check_tokenizer_files(settings: Path) -> None:
    """Of `fast_tokenizer_files` transformers opens the one of its own version, whatever path that is."""
    if not settings.exists():
        return
    for name in read_json(settings).get("fast_tokenizer_files") or ():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelLoadFailed(f"{settings}: fast_tokenizer_files: {name!r} is not a file of the model's directory")
