"""run.sh, as hosts call it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.spawned import PATIENCE, ROOT

SCRIPT = ROOT / "run.sh"


def output(argv: list[str], cwd: Path, **environment: str) -> str:
    env = {**os.environ, "MLX_WORKER_PYTHON": sys.executable, **environment}
    env.pop("PYTHONPATH", None)
    run = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return run.stdout


def test_it_runs_as_an_absolute_path_from_another_directory(tmp_path: Path) -> None:
    assert "--addr" in output([str(SCRIPT), "--help"], tmp_path)


def test_it_runs_as_a_base_name_from_its_own_directory() -> None:
    assert "--addr" in output(["bash", "run.sh", "--help"], ROOT)
    assert "--addr" in output(["./run.sh", "--help"], ROOT)


def test_it_runs_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run.sh").symlink_to(SCRIPT)
    assert "--addr" in output([str(tmp_path / "run.sh"), "--help"], tmp_path)


def test_a_package_named_backend_where_it_is_started_from_does_not_come_first(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__main__.py").write_text("raise SystemExit('the wrong one')")
    assert "--addr" in output([str(SCRIPT), "--help"], tmp_path)


def test_it_finds_the_environment_beside_it(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path / "run.sh")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    assert (
        output([str(tmp_path / "run.sh"), "--addr", "a:1"], ROOT, MLX_WORKER_PYTHON="") == "-P -m backend --addr a:1\n"
    )


def test_without_an_environment_it_ends_at_once_and_says_what_to_run(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path / "run.sh")
    env = {**os.environ, "MLX_WORKER_PYTHON": ""}
    run = subprocess.run([str(tmp_path / "run.sh")], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode != 0
    assert len(run.stderr.splitlines()) == 1 and f"run make setup in {tmp_path}" in run.stderr


@pytest.mark.parametrize("arguments", [["--addr", "127.0.0.1:0"], ["chat"]])
def test_an_environment_without_its_packages_is_told_in_a_sentence(tmp_path: Path, arguments: list[str]) -> None:
    """As one is whose set-up was cut short."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    code, told = ending(arguments, MLX_WORKER_PYTHON=str(python))
    assert code == 2 and "has no package" in told and "run make setup" in told


def test_a_python_that_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    assert ending([], MLX_WORKER_PYTHON=f"{tmp_path}/none") == (
        2,
        f"mlx-worker: MLX_WORKER_PYTHON: {tmp_path}/none is no program",
    )


def ending(arguments: list[str], **environment: str) -> tuple[int, str]:
    """The exit code, and the one line that is said."""
    env = {**os.environ, **environment}
    run = subprocess.run([str(SCRIPT), *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE)
    (line,) = run.stderr.splitlines()
    return run.returncode, line


def test_it_ends_in_exec_so_that_signals_reach_the_worker(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path / "run.sh")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$$"\n')
    python.chmod(0o755)
    with subprocess.Popen(
        [str(tmp_path / "run.sh")],
        env={**os.environ, "MLX_WORKER_PYTHON": str(python)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
