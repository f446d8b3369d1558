"""First start of a package that a host has installed: makes `.venv` beside `run.sh`, once, whoever starts it how often.

Runs on the machine's Python with its standard library alone. The work is done in a session of its own, so that a host
that gives up waiting does not undo it; this process waits for it and tells on standard error where it stands. Whatever
ends the work leaves no `.venv`: it is made beside its place and renamed when it is whole.
"""

import fcntl
import filecmp
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WANTED = HERE / "requirements" / "worker.txt"
VENV = HERE / ".venv"
NEW = HERE / ".venv.new"
OLD = HERE / ".venv.old"
LOCK = HERE / ".first-run.lock"
STATE = HERE / ".first-run.state"
LOG = HERE / ".first-run.log"
SYSTEMS = ("Linux-x86_64", "Darwin-arm64")
IMPORTS = ("grpc", "llguidance", "mlx_lm")
FAILED = 6
INTERRUPTED = 130
LIMIT_SECONDS = 1800.0
TELL_SECONDS = 5.0
POLL_SECONDS = 0.1


class CannotSetUp(Exception):
    """Says in one sentence why, and what to do."""


def is_ready() -> bool:
    """Whether there is an environment for the present list; `run.sh` asks the same."""
    made_for = VENV / "requirements.txt"
    runs = os.access(VENV / "bin" / "python", os.X_OK)
    return runs and made_for.exists() and filecmp.cmp(WANTED, made_for, shallow=False)


def say(text: str) -> None:
    sys.stderr.write(f"mlx-worker: {text}\n")
    sys.stderr.flush()


def watch() -> int:
    """Have the work done, or wait for whoever does it; 0 once there is an environment."""
    parent, began = os.getppid(), time.monotonic()
    system = f"{platform.system()}-{platform.machine()}"
    if system not in SYSTEMS:
        say(f"cannot set up: there is no MLX for {system} in the list, only for {' and '.join(SYSTEMS)}")
        return FAILED
    try:
        STATE.touch()
        command = [sys.executable, "-I", __file__, "--work"]
        with LOG.open("a") as log:
            worker = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    except OSError as error:
        say(f"cannot set up in {HERE}: {error}; run {HERE}/run.sh --setup-only as somebody who may write there")
        return FAILED
    try:
        say(f"first start: making {VENV}; it goes on where the host stops waiting, and the next start finds it")
        return wait_for(worker, parent, began)
    except KeyboardInterrupt:
        say(f"the set-up goes on by itself (kill -- -{worker.pid} ends it), and the next start finds it")
        return INTERRUPTED


def wait_for(worker: "subprocess.Popen[bytes]", parent: int, began: float) -> int:
    """Tell where the work stands until it has ended."""
    tell_at = TELL_SECONDS
    while worker.poll() is None:
        if os.getppid() != parent:
            return FAILED
        if (waited := time.monotonic() - began) >= tell_at:
            tell_at += TELL_SECONDS
            say(f"first start: at {stands_at()}{installed()}, {waited:.0f} s so far")
        time.sleep(POLL_SECONDS)
    if worker.returncode == 0:
        say(f"first start: ready after {time.monotonic() - began:.0f} s")
        return 0
    ended = f"the set-up was ended with code {worker.returncode} at {stands_at()}; the next start begins it anew"
    say(stands_at() if worker.returncode == FAILED else ended)
    return FAILED


def installed() -> str:
    """How far pip is; it fetches all packages before it installs the first."""
    packages = len(list(NEW.glob("lib/python*/site-packages/*.dist-info")))
    return f" ({packages - 1} installed)" if packages > 1 else ""


def work() -> int:
    """Make the environment unless it is there; of several at once one works and the others wait for it."""
    # Who sets up is not always who starts the worker, and nothing in it is secret.
    os.umask(0o022)
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready():
            return 0
        try:
            make_environment(time.monotonic() + LIMIT_SECONDS, lock.fileno())
        except (CannotSetUp, OSError) as error:
            tell(f"cannot set up: {error}{still_there()}")
            return FAILED
        STATE.unlink(missing_ok=True)
        return 0


def still_there() -> str:
    """How to go on with the environment of another list, where there is one."""
    python = VENV / "bin" / "python"
    if not os.access(python, os.X_OK):
        return ""
    return f"; the environment of the list before is still there: MLX_WORKER_PYTHON={python} starts with it"


def make_environment(deadline: float, lock: int) -> None:
    """Raises CannotSetUp or OSError; nothing stands at VENV then that was not there before.

    Args:
        lock: Goes to all that write into NEW: where this process is killed, the lock is free once they have ended.
    """
    python = NEW / "bin" / "python"
    for left_over in (NEW, OLD):
        shutil.rmtree(left_over, ignore_errors=True)
    if importlib.util.find_spec("ensurepip") is None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise CannotSetUp(
            f"{sys.executable} cannot make environments, install {version}-venv or name another in PYTHON"
        )
    tell(f"step 1 of 3, an empty environment with Python {platform.python_version()}")
    run([sys.executable, "-I", "-m", "venv", str(NEW)], deadline, lock)
    pip = [str(python), "-I", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    wanted = sum(line[:1].isalnum() for line in WANTED.read_text().splitlines())
    tell(f"step 2 of 3, fetching and installing the {wanted} packages of {WANTED.name}")
    # As make setup does: the list is complete, so nothing is resolved. Compiled is what the next step imports: all of
    # it takes longer than the installing, and half of the disk, for modules that nobody runs.
    how = ["--no-deps", "--no-compile", "--require-hashes", "--only-binary", ":all:"]
    run([*pip, "install", *how, "-r", str(WANTED)], deadline, lock)
    tell("step 3 of 3, trying what was installed")
    run([*pip, "check"], deadline, lock)
    run([str(python), "-I", "-c", f"import {', '.join(IMPORTS)}"], deadline, lock)
    shutil.copyfile(WANTED, NEW / "requirements.txt")
    if VENV.exists():
        VENV.rename(OLD)
    NEW.rename(VENV)
    shutil.rmtree(OLD, ignore_errors=True)


def run(command: list[str], deadline: float, lock: int) -> None:
    """Run it with its output in the log; CannotSetUp with its own reason when it fails or takes too long."""
    began_at = LOG.stat().st_size
    remaining = max(1.0, deadline - time.monotonic())
    with LOG.open("a") as log:
        try:
            ended = subprocess.run(command, check=False, stdout=log, stderr=log, timeout=remaining, pass_fds=[lock])
        except subprocess.TimeoutExpired:
            raise CannotSetUp(f"{stands_at()} took longer than {LIMIT_SECONDS / 60:.0f} minutes") from None
    if ended.returncode:
        with LOG.open(errors="replace") as log:
            log.seek(began_at)
            lines = [line.strip() for line in log if line.strip()]
        raise CannotSetUp(f"{stands_at()}: {reason_in(lines)[:400]} (all of it in {LOG})")


def reason_in(lines: list[str]) -> str:
    """What first went wrong, which pip says in words of its own; a traceback ends with it."""
    reason = ([line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["it said nothing"])[0]
    # Of an index that it cannot reach pip says in the end that it has no versions.
    broken = re.search(r"after connection broken by (.*)", "\n".join(lines))
    return f"no connection: {broken[1]}" if broken and "(from versions: none)" in reason else reason


def tell(text: str) -> None:
    """Let those who wait know; whole at any moment."""
    passing = STATE.with_suffix(".passing")
    passing.write_text(text)
    passing.replace(STATE)


def stands_at() -> str:
    """What was told last."""
    try:
        return STATE.read_text() or "its beginning"
    except FileNotFoundError:
        return "its end"


if __name__ == "__main__":
    sys.exit(work() if sys.argv[1:] == ["--work"] else watch())
