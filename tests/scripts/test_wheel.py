"""The wheel: built from a copy of the tree without the network, looked into, and run from where it was put."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import backend

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "__pycache__", "*.egg-info", ".*_cache")
PATIENCE = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        # No isolation: what builds it must be here already.
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("NOT TESTED: setuptools here is older than pyproject.toml asks for")
    except PackageNotFoundError:
        pytest.skip("NOT TESTED: no setuptools here to build the wheel with")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    ran = subprocess.run(
        [*pip, "wheel", *options, str(folder / "tree")], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [made] = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_it_has_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for package in ("backend", "mlx_cache")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith(("backend/", "mlx_cache/"))} == sources
    tops = {name.split("/")[0] for name in names}
    assert {re.sub(r"-.*", "", top) for top in tops} == {"backend", "mlx_cache", "mlx_worker"}
    data = {name.split("/data/", 1)[1] for name in names if "/data/" in name}
    assert data == {"share/mlx-worker/backend.proto", "share/mlx-worker/worker.txt"}


@pytest.mark.slow
def test_its_version_is_the_packages_and_it_names_what_it_needs(wheel: Path) -> None:
    assert wheel.name.startswith(f"mlx_worker-{backend.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    assert f"\nVersion: {backend.__version__}\n" in text
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)", text, re.MULTILINE))
    assert {"grpcio", "mlx", "mlx-lm", "llguidance", "protobuf", "rich", "safetensors"} <= needed
    assert 'extra == "cpu"' in text


@pytest.mark.slow
def test_what_it_needs_is_what_the_tests_ran_on(wheel: Path) -> None:
    extra = "cuda13" if any(found.name == "mlx-cuda-13" for found in distributions()) else "cpu"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--no-index"]
    ran = subprocess.run([*pip, f"{wheel}[{extra}]"], capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    assert f"Would install mlx-worker-{backend.__version__}" in ran.stdout


def test_every_library_that_is_imported_is_one_that_comes_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    coming = {"mlx"} | _with_their_needs([Requirement(text).name for text in project["dependencies"]])
    imported = {name for path in _sources() for name in _imported(path)}
    provided = packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"backend", "mlx_cache"}
    lacking = {name for name in foreign if not coming & set(map(canonicalize_name, provided.get(name, [name])))}
    assert not lacking


def _sources() -> Iterator[Path]:
    for package in ("backend", "mlx_cache"):
        yield from (ROOT / package).rglob("*.py")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def _with_their_needs(names: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(map(canonicalize_name, names))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needs = map(Requirement, requires(name) or ())
            waiting += [canonicalize_name(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_the_command_runs_from_where_pip_has_put_it(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], capture_output=True, check=True, timeout=PATIENCE)
    command = str(tmp_path / "bin" / "mlx-worker")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def said(*arguments: str) -> str:
        options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": PATIENCE}
        ran = subprocess.run([command, *arguments], **options)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert said("--version") == f"mlx-worker {backend.__version__}\n"
    assert said("serve", "--version") == f"mlx-worker {backend.__version__}\n"
    assert "\n  doctor  " in said("help")
    for name in ("chat", "bench", "doctor", "check", "cache"):
        assert f"usage: mlx-worker {name} " in said("help", name)
    # The doctor finds the pinned versions where the wheel has put them.
    found = json.loads(said("doctor", "--json", "--addr", "127.0.0.1:0"))
    libraries = next(row for row in found["rows"] if row["name"] == "libraries")
    assert libraries["found"].endswith("as pinned"), libraries
