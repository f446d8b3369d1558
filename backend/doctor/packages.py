"""The Python environment: versions beside those that the tests ran on, and packages that overwrite each other."""

import importlib.metadata as metadata
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from backend import __version__
from backend.doctor.finding import Row, bad, ok, warn

PYTHONS: Final = ((3, 11), (3, 13))
# The packages that a model's answers or speed depend on.
LOOKED_AT: Final = (
    "grpcio",
    "huggingface-hub",
    "llguidance",
    "mlx",
    "mlx-lm",
    "numpy",
    "protobuf",
    "rich",
    "safetensors",
    "tokenizers",
    "transformers",
)
_FIRST: Final = ("mlx-lm", "transformers", "llguidance", "grpcio")
# Each brings the library that `mlx` imports, under the same name.
_BACKENDS: Final = re.compile(r"mlx-(cpu|metal|cuda.*)")
_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")
_LIST: Final = "worker.txt"


def rows() -> list[Row]:
    """All of it."""
    found = installed(metadata.distributions())
    return [python_row(sys.version_info[:2]), *version_rows(found, pins()), mlx_row(found, sys.platform)]


def python_row(version: tuple[int, ...]) -> Row:
    """The interpreter."""
    told = f"{platform.python_version()} ({sys.executable}), mlx-worker {__version__}"
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return ok("python", told)
    return warn("python", told, "Tested are 3.11 to 3.13: make an environment with one of those.")


def installed(distributions: Iterable[metadata.Distribution]) -> dict[str, list[str]]:
    """Versions by name, of each name all that are found, in the order in which Python looks for them."""
    found: dict[str, list[str]] = {}
    for distribution in distributions:
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(_plain(name), []).append(distribution.version)
    return found


def version_rows(found: Mapping[str, Sequence[str]], pinned: Mapping[str, str]) -> list[Row]:
    """What is missing, or of another version than the tests ran on; one row where nothing is."""
    missing = [name for name in LOOKED_AT if name not in found]
    if missing:
        advice = "Install what the worker needs: make setup, or pip install 'mlx-worker[cpu]'."
        return [bad("libraries", f"missing: {', '.join(missing)}", advice)]
    first = ", ".join(f"{name} {found[name][0]}" for name in _FIRST)
    told = f"{first} and {len(LOOKED_AT) - len(_FIRST)} others"
    if not pinned:
        return [warn("libraries", told, "The list of tested versions is not here, so they were not compared.")]
    others = [name for name in LOOKED_AT if name in pinned and found[name][0] != pinned[name]]
    if not others:
        return [ok("libraries", f"{told}, as pinned")]
    unlike = ", ".join(f"{name} {found[name][0]} (pinned {pinned[name]})" for name in others)
    return [warn("libraries", unlike, "Other versions than the tests ran on: make setup installs the pinned ones.")]


def mlx_row(found: Mapping[str, Sequence[str]], platform: str) -> Row:
    """Whether there is one MLX."""
    name, backends = "one MLX", sorted(filter(_BACKENDS.fullmatch, found))
    twice = sorted(each for each in ("mlx", "mlx-lm", *backends) if len(set(found.get(each, ()))) > 1)
    if twice:
        versions = ", ".join(f"{each} {' and '.join(found[each])}" for each in twice)
        return bad(name, f"two versions: {versions}", "Use one environment, without PYTHONPATH to another's packages.")
    if len(backends) > 1:
        both = " and ".join(backends)
        return bad(name, f"{both} overwrite each other", "Make a new environment with one of them.")
    if "mlx" not in found:
        return bad(name, "none", "Install it: make setup, make setup-cuda, or pip install 'mlx-worker[cpu]'.")
    if not backends:
        extra = "mlx-metal" if platform == "darwin" else "mlx[cpu] or mlx[cuda13]"
        return bad(name, f"mlx {found['mlx'][0]} without a backend", f"Install {extra}.")
    backend = backends[0]
    if found[backend][0] != found["mlx"][0]:
        unlike = f"mlx {found['mlx'][0]} with {backend} {found[backend][0]}"
        return bad(name, unlike, "They belong together: reinstall both in one version.")
    return ok(name, f"mlx {found['mlx'][0]} with {backend}")


def pins() -> dict[str, str]:
    """The versions that the tests ran on, from the source tree or from where the wheel has put them; else none."""
    for file in _lists():
        try:
            text = file.read_text(encoding="utf-8")
        except OSError:
            continue
        return {_plain(name): version for name, version in _PIN.findall(text)}
    return {}


def _lists() -> Iterable[Path]:
    here = Path(__file__).parents[2]
    yield here / "requirements" / _LIST
    # Where pip installs into a folder, its record of files does not say where this one has gone.
    yield here / "share" / "mlx-worker" / _LIST
    try:
        files = metadata.distribution("mlx-worker").files or ()
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == _LIST:
            yield Path(str(file.locate()))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
