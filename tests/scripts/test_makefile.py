"""`make setup` on a machine that has only make and Python."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_the_lists_are_installed_as_they_are_and_checked(tmp_path: Path) -> None:
    """A resolver would let a release that is newer than the lists decide whether they install."""
    made = make("--dry-run", f"VENV={tmp_path}/venv", "setup-dev")
    assert made.returncode == 0, made.stderr
    commands = [line.partition("-m pip ")[2] for line in made.stdout.splitlines() if "-m pip" in line]
    assert len(commands) == 4 and all("check" in check for check in commands[1::2])
    for install, name in zip(commands[::2], ("worker", "dev"), strict=True):
        assert install.endswith(f"-r requirements/{name}.txt")
        assert {"--no-deps", "--require-hashes"} <= {*install.split()} and "--only-binary :all:" in install


def test_an_environment_that_could_not_be_made_is_made_anew_next_time(tmp_path: Path) -> None:
    """Debian's Python without python3-venv leaves one without pip behind, which would be taken for a whole one."""
    python, venv = tmp_path / "python", tmp_path / "venv"
    python.write_text(
        "#!/bin/sh\n"
        f'[ "$2" = venv ] || exec {sys.executable} -c \'print("{python}")\'\n'
        'mkdir -p "$3/bin" && touch "$3/bin/python" && echo no ensurepip >&2 && exit 1\n'
    )
    python.chmod(0o755)
    for _ in range(2):
        made = make(f"VENV={venv}", f"PYTHON={python}", "setup")
        assert made.returncode != 0 and "no ensurepip" in made.stderr
