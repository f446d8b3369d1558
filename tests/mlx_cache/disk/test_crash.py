"""Kill -9 at random moments of writing, and workers that share a directory. The work is done by `crash`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*arguments: object, timeout: float) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.mlx_cache.disk.crash", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=True)
    return json.loads(done.stdout)


def check_killed(told: dict[str, int]) -> None:
    assert told["bad"] == told["left"] == told["changed"] == 0, told
    assert told["files"] > 0 and told["hits"] > 0, told


def test_after_a_kill_every_entry_is_exact_or_absent_and_nothing_else_is_left(tmp_path: Path) -> None:
    check_killed(run("kills", tmp_path / "kv", "--times", 3, timeout=240))


@pytest.mark.slow
def test_after_two_hundred_kills_every_entry_is_exact_or_absent(tmp_path: Path) -> None:
    told = run("kills", tmp_path / "kv", "--times", 100, timeout=280)
    check_killed(told)
    assert told["kills"] == 200 and told["swept"] > 10, told


@pytest.mark.slow
def test_the_kills_would_find_files_that_are_written_under_their_own_names(tmp_path: Path) -> None:
    # A busy machine may be killed twenty times while it writes nothing.
    found = (run("kills", tmp_path / f"{n}", "--times", 20, "--planted", timeout=100)["bad"] > 0 for n in range(5))
    assert any(found)


def check_shared(told: dict[str, int]) -> None:
    assert told["failed"] == told["bad"] == told["left"] == 0 and told["hits"] > 0, told
    # What one writes, the other learns within a fifth of a second: above the budget by no more than that.
    assert told["bytes"] <= 2 * told["max_bytes"], told


def test_two_workers_on_one_directory_never_read_what_is_wrong(tmp_path: Path) -> None:
    check_shared(run("share", tmp_path / "kv", "--seconds", 1, timeout=240))


@pytest.mark.slow
def test_two_workers_on_one_directory_for_a_while(tmp_path: Path) -> None:
    check_shared(run("share", tmp_path / "kv", "--seconds", 8, timeout=280))
