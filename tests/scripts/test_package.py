"""The package: what is in it, the same bytes every time, and a first start that fails in words."""

import fcntl
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend import __version__

ROOT = Path(__file__).parents[2]
PACKAGE = runpy.run_path(str(ROOT / "scripts" / "package.py"))
# A set-up installs packages, with another one beside it.
PATIENCE = 240.0
IMPORTS = 'IMPORTS = ("grpc", "llguidance", "mlx_lm")'


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PACKAGE["write"](tmp_path_factory.mktemp("package"))


def picture(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, mode and time of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    stats = {path: path.stat() for path in files}
    return {
        str(path.relative_to(folder)): (path.read_bytes(), stats[path].st_mode, int(stats[path].st_mtime))
        for path in files
    }


def test_it_holds_every_module_and_nothing_that_does_not_run(package: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "backend", "mlx_cache"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no git, or no checkout")
    modules = {path for path in tracked.stdout.splitlines() if path.endswith(".py")}
    assert set(picture(package)) == modules | set(PACKAGE["FILES"]) | {"metadata.json"}


def test_a_host_finds_the_alias_and_the_version(package: Path) -> None:
    metadata = json.loads((package / "metadata.json").read_text())
    assert metadata == {"name": "mlx-worker", "alias": "mlx", "version": __version__}
    assert os.access(package / "run.sh", os.X_OK)


def test_the_same_sources_give_the_same_bytes_over_what_was_there(package: Path, tmp_path: Path) -> None:
    (tmp_path / "mlx-worker").mkdir()
    (tmp_path / "mlx-worker" / "left-over").touch()
    old = os.umask(0o077)
    try:
        again = PACKAGE["write"](tmp_path)
    finally:
        os.umask(old)
    assert picture(again) == picture(package)


def test_files_that_differ_have_unlike_times_since_python_goes_by_them(package: Path) -> None:
    by_time: dict[int, set[bytes]] = {}
    for content, _, when in picture(package).values():
        by_time.setdefault(when, set()).add(content)
    assert max(map(len, by_time.values())) == 1


# The first start, with lists that install nothing or cannot be installed.


@pytest.fixture
def installed(package: Path, tmp_path: Path) -> Path:
    """A copy as a host makes it, with a list of its own."""
    folder = Path(shutil.copytree(package, tmp_path / "backends" / "mlx-worker"))
    (folder / "requirements" / "worker.txt").write_text("# nothing\n")
    replace_in(folder / "first-run.py", IMPORTS, 'IMPORTS = ("json",)')
    return folder


def start(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "MLX_WORKER_PYTHON": "", "PYTHON": sys.executable, **environment}
    return subprocess.Popen(
        [str(folder / "run.sh"), *(arguments or ("--setup-only",))],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors.splitlines()


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_machine_without_a_python_is_told_so(installed: Path) -> None:
    code, lines = end(start(installed, PYTHON="/nowhere/python"))
    assert code == 6 and len(lines) == 1 and "no Python 3.11 to 3.13 found" in lines[0]


def test_a_system_without_wheels_is_told_so(installed: Path) -> None:
    replace_in(installed / "first-run.py", 'SYSTEMS = ("Linux-x86_64", "Darwin-arm64")', 'SYSTEMS = ("Plan9-mips",)')
    code, lines = end(start(installed))
    assert code == 6 and len(lines) == 1 and "there is no MLX for" in lines[0]


def test_a_folder_that_cannot_be_written_is_told_of(installed: Path) -> None:
    """Root may write anywhere, so a directory stands in for what may not be opened."""
    (installed / ".first-run.log").mkdir()
    code, lines = end(start(installed))
    assert code == 6 and len(lines) == 1 and "cannot set up in" in lines[0] and "--setup-only" in lines[0]


def test_a_python_that_cannot_make_environments_is_told_of(installed: Path) -> None:
    replace_in(installed / "first-run.py", 'find_spec("ensurepip")', 'find_spec("no_ensurepip")')
    code, lines = end(start(installed))
    assert code == 6 and re.search(r"cannot set up: .* install python3\.\d+-venv", lines[-1]), lines


def test_a_named_python_needs_no_first_start(installed: Path) -> None:
    code, lines = end(start(installed, MLX_WORKER_PYTHON=sys.executable))
    assert (code, lines) == (0, [f"mlx-worker: ready to start with {sys.executable}"])
    assert not (installed / ".venv").exists()


def test_a_start_that_finds_its_environment_needs_no_cmp(installed: Path) -> None:
    """Nor anything else of its machine but where the folder is."""
    (installed / ".venv" / "bin").mkdir(parents=True)
    (installed / ".venv" / "bin" / "python").symlink_to(sys.executable)
    shutil.copy(installed / "requirements" / "worker.txt", installed / ".venv" / "requirements.txt")
    few = installed.parent / "few"
    few.mkdir()
    for name in ("bash", "env", "realpath", "readlink", "dirname"):
        if there := shutil.which(name):
            (few / name).symlink_to(there)
    code, lines = end(start(installed, PATH=str(few)))
    assert (code, lines) == (0, [f"mlx-worker: ready to start with {installed}/.venv/bin/python"])
    (installed / ".venv" / "requirements.txt").write_text("# older\n")
    assert end(start(installed, PYTHON="/nowhere/python"))[0] == 6


def test_whoever_stops_waiting_is_told_that_the_set_up_goes_on(installed: Path) -> None:
    replace_in(
        installed / "first-run.py", "    python = NEW /", '    subprocess.run(["sleep", "60"])\n    python = NEW /'
    )
    process = start(installed)
    assert process.stderr is not None
    assert "first start: making" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    code, lines = end(process)
    assert code == 130 and len(lines) == 1, lines
    told = re.search(r"the set-up goes on by itself \(kill -- -(\d+) ends it\)", lines[0])
    assert told, lines
    os.killpg(int(told[1]), signal.SIGKILL)


def test_what_was_killed_in_its_middle_is_not_begun_anew_while_its_pip_writes(installed: Path) -> None:
    first_run = runpy.run_path(str(installed / "first-run.py"))
    said, told = os.pipe()
    code = f"import os, sys, time; os.write({told}, b'.'); time.sleep(60)"
    work = f"run([sys.executable, '-c', {code!r}], time.monotonic() + 60, lock)"
    replace_in(installed / "first-run.py", "    python = NEW /", f"    {work}\n    python = NEW /")
    replace_in(installed / "first-run.py", "pass_fds=[lock]", f"pass_fds=[lock, {told}]")
    working = subprocess.Popen(
        [sys.executable, "-I", str(installed / "first-run.py"), "--work"], pass_fds=[told], start_new_session=True
    )
    try:
        with first_run["LOG"].open("a"):  # as whoever waits for the work has made it
            assert os.read(said, 1) == b"."
        working.kill()
        working.wait(PATIENCE)
        with first_run["LOCK"].open("a") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.killpg(working.pid, signal.SIGKILL)
            fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(told)
        os.close(said)


def test_the_reason_is_the_connection_where_that_is_what_was_missing(installed: Path) -> None:
    reason_in = runpy.run_path(str(installed / "first-run.py"))["reason_in"]
    none = "ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)"
    broken = "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...)': /simple/a/"
    assert reason_in([broken, none, "ERROR: No matching"]) == "no connection: 'NewConnectionError(...)': /simple/a/"
    assert reason_in([none]) == none
    # A line that broke once and came back is not why another thing failed.
    assert reason_in([broken, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"]).startswith("ERROR: THESE")


def test_what_is_told_of_work_that_has_just_ended_reads_as_a_place(installed: Path) -> None:
    """The state's file is gone a moment before the process that ends."""
    replace_in(installed / "first-run.py", "TELL_SECONDS = 5.0", "TELL_SECONDS = 0.2")
    ending = "def work() -> int:\n    STATE.unlink()\n    time.sleep(1)\n    return FAILED\n"
    replace_in(installed / "first-run.py", "def work() -> int:\n", ending)
    assert any("first start: at its end, " in line for line in end(start(installed))[1])


def test_an_environment_of_the_list_before_is_named_where_the_new_one_cannot_be_had(installed: Path) -> None:
    python = installed / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    replace_in(installed / "first-run.py", 'find_spec("ensurepip")', 'find_spec("no_ensurepip")')
    code, lines = end(start(installed))
    assert code == 6 and f"MLX_WORKER_PYTHON={python} starts with it" in lines[-1], lines
    assert end(start(installed, MLX_WORKER_PYTHON=str(python)))[0] == 0


@pytest.mark.slow
def test_without_a_network_the_last_line_says_so(installed: Path) -> None:
    wanted = installed / "requirements" / "worker.txt"
    wanted.write_text("no-such-package-of-ours==1.0 --hash=sha256:" + "0" * 64 + "\n")
    nobody = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "PIP_NO_INDEX": ""}
    code, lines = end(start(installed, **nobody))
    assert code == 6 and "no connection: " in lines[-1] and "refused" in lines[-1], lines


@pytest.mark.slow
def test_a_list_that_cannot_be_installed_leaves_no_environment(installed: Path) -> None:
    """And the reason as the last line, which is the one that hosts show."""
    wanted = installed / "requirements" / "worker.txt"
    wanted.write_text("no-such-package-of-ours==1.0 --hash=sha256:" + "0" * 64 + "\n")
    code, lines = end(start(installed, PIP_NO_INDEX="1"))
    assert code == 6
    assert "step 2 of 3, fetching and installing the 1 packages" in lines[-1] and "no-such-package-of-ours" in lines[-1]
    assert not (installed / ".venv").exists()


@pytest.mark.slow
def test_two_first_starts_share_one_set_up_until_there_is_a_newer_list(installed: Path) -> None:
    first, second = start(installed), start(installed)
    assert {end(first)[0], end(second)[0]} == {0}
    before = (installed / ".venv").stat().st_ino
    assert end(start(installed)) == (0, [f"mlx-worker: ready to start with {installed}/.venv/bin/python"])
    assert (installed / ".venv").stat().st_ino == before
    (installed / "requirements" / "worker.txt").write_text("# nothing, but newer\n")
    assert end(start(installed))[0] == 0
    assert (installed / ".venv").stat().st_ino != before
    assert sorted(path.name for path in installed.glob(".venv*")) == [".venv"]


@pytest.mark.slow
def test_a_host_that_gives_up_does_not_undo_the_set_up(installed: Path) -> None:
    """It ends the process group, as hosts do; the work goes on in a session of its own."""
    process = start(installed)
    assert process.stderr is not None
    assert "first start" in process.stderr.readline()
    os.killpg(process.pid, 15)
    assert end(process)[0] == -15
    wait_until((installed / ".venv").exists)


@pytest.mark.slow
def test_a_set_up_that_was_killed_or_does_not_run_is_begun_anew(installed: Path) -> None:
    """kill -9 in its middle leaves what the next start clears away."""
    working = (installed / "first-run.py").read_text()
    replace_in(installed / "first-run.py", 'tell("step 3 of 3', "os.kill(os.getpid(), 9)  # ")
    code, lines = end(start(installed))
    assert code == 6 and "code -9 at step 2 of 3" in lines[-1]
    assert (installed / ".venv.new").exists() and not (installed / ".venv").exists()
    (installed / "first-run.py").write_text(working.replace('("json",)', '("json", "no_such_module")'))
    code, lines = end(start(installed))
    assert code == 6 and "No module named 'no_such_module'" in lines[-1]
    assert not (installed / ".venv").exists()


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
