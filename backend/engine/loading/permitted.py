"""Which files a load may open.

A template or a tokenizer that is read can be read back by clients (ModelMetadata renders it), and a pipe that is
opened may never answer. So only regular files are opened; and those whose text can come out lie in the model's own
directory, in the host's models directory, or where the worker's operator allows.
"""

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.download import MODEL_FILES

_WEIGHTS = "*.safetensors"
_OPENED = (*MODEL_FILES, "*.py", _WEIGHTS)
# What these hold is the system's, whatever lies above them.
_ALL = Path("/")
_NEVER = tuple(Path(root) for root in ("/proc", "/sys", "/dev"))


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
            ModelLoadFailed: It lies elsewhere; names the field.
        """
        real = path.resolve()
        if not self._holds(real):
            raise ModelLoadFailed(
                f"{field}: {path} is neither in the model's directory nor in ModelPath; "
                "the worker's --allow-files names further directories"
            )

    def check_regular(self, field: str, path: Path) -> None:
        """As `check`, and that it is a regular file, not a pipe or a device that may never answer."""
        self.check(field, path)
        _check_regular(path)

    def check_directory(self, directory: Path) -> None:
        """Every file of `directory` that a load may open. Weights may be links to anywhere.

        Raises:
            ModelLoadFailed: Names the first that is no regular file, or a link that leads out.
        """
        for path in sorted(directory.iterdir()):
            if path.is_dir() or not _matches(path.name, _OPENED):
                continue
            _check_regular(path)
            real = path.resolve()
            if not self._holds(real) and (not _matches(real.name, (_WEIGHTS,)) or _below(real, _NEVER)):
                raise ModelLoadFailed(f"{path}: leads out of the model's directory, to {real}")

    def _holds(self, real: Path) -> bool:
        return _below(real, self.roots) and not _below(real, _NEVER)


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ModelLoadFailed(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ModelLoadFailed(f"{path}: is not a regular file")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
