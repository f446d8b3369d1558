"""scripts/find-python, on machines that have this or that Python."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "find-python"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A home directory with an empty `bin`."""
    (tmp_path / "bin").mkdir()
    return tmp_path


def install(path: Path, version: str) -> None:
    """A program that answers as a Python of this version does: the check passes where it is among the arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nshift 2\nfor v in "$@"; do [ $v = {version} ] && echo "$0" && exit 0; done\nexit 1\n')
    path.chmod(0o755)


def find(machine: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": str(machine / "bin"), "HOME": str(machine), **environment}
    return subprocess.run(["/bin/sh", str(SCRIPT), *arguments], env=env, capture_output=True, text=True, timeout=30)


def test_the_first_version_that_is_there_is_taken(machine: Path) -> None:
    install(machine / "bin" / "python3", "3.12")
    assert find(machine).stdout == f"{machine}/bin/python3\n"


def test_all_names_one_python_of_each_version_wherever_it_is(machine: Path) -> None:
    install(machine / "bin" / "python3.13", "3.13")
    install(machine / "bin" / "python3", "3.13")
    install(machine / ".pyenv" / "versions" / "3.11.7" / "bin" / "python", "3.11")
    (machine / "bin" / "python3.12").write_text("#!/bin/sh\nexit 127\n")  # a shim of a version that is not chosen
    (machine / "bin" / "python3.12").chmod(0o755)
    assert find(machine, "--all").stdout.splitlines() == [
        f"{machine}/.pyenv/versions/3.11.7/bin/python",
        f"{machine}/bin/python3.13",
    ]


def test_the_python_that_is_named_is_taken_or_nothing(machine: Path) -> None:
    install(machine / "bin" / "python3.11", "3.11")
    install(machine / "mine", "3.13")
    install(machine / "old", "3.9")
    assert find(machine, PYTHON=str(machine / "mine")).stdout == f"{machine}/mine\n"
    refused = find(machine, PYTHON=str(machine / "old"))
    assert (refused.returncode, refused.stdout) == (1, "") and "3.11 to 3.13" in refused.stderr


def test_a_machine_without_one_is_told_what_to_do(machine: Path) -> None:
    install(machine / "bin" / "python3", "3.14")
    for arguments in ((), ("--all",)):
        refused = find(machine, *arguments)
        assert (refused.returncode, refused.stdout) == (1, "") and "PYTHON=" in refused.stderr
