"""The demo: it waits while its worker lives, and ends with a sentence where the worker does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@contextmanager
def demo(*arguments: str, python: Path | str = sys.executable, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments],
        env={**os.environ, "MLX_WORKER_PYTHON": str(python), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


@pytest.fixture
def as_python(tmp_path: Path) -> Callable[[str], Path]:
    """Scripts that run.sh starts in place of Python."""

    def make(lines: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return path

    return make


def read_until(process: "subprocess.Popen[str]", beginning: str) -> list[str]:
    """The lines of standard output up to the first that begins so."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(f"no line begins with {beginning!r}: {lines}")


def sentence(process: "subprocess.Popen[str]") -> str:
    """What a failed demo says: one line."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert len(errors.splitlines()) == 1, errors
    return errors.strip()


def test_a_worker_that_dies_at_once_is_told_with_its_last_line(as_python: Callable[[str], Path]) -> None:
    dying = as_python("echo first >&2; echo 'no room for a worker' >&2; exit 7")
    with demo(python=dying) as process:
        assert sentence(process) == "the worker ended with exit code 7: no room for a worker"


@pytest.mark.slow
def test_a_worker_that_is_slow_to_open_its_port_is_waited_for(as_python: Callable[[str], Path], tmp_path: Path) -> None:
    go = tmp_path / "go"
    slow = as_python(f"while [ ! -e '{go}' ]; do sleep 0.05; done; exec '{sys.executable}' \"$@\"")
    with demo("--prompt", "What is the capital of France?", python=slow) as process:
        for _ in range(2):
            assert "waiting for the worker to open its port" in read_until(process, "... ")[-1]
        go.touch()
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
        assert "Paris" in output and output.endswith("worker stopped\n")


def test_a_python_without_the_packages_is_told_in_a_sentence() -> None:
    command = [sys.executable, "-S", str(ROOT / "examples" / "demo.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert "no package grpc: run make demo" in run.stderr


def test_a_proxy_of_the_environment_is_not_asked_for_a_worker_of_this_machine(tmp_path: Path) -> None:
    """gRPC would, and wait for ever: no model is there, so that the load's answer is all that is waited for."""
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "no_grpc_proxy": ""}
    with demo("--model", str(tmp_path / "nothing"), **proxies) as process:
        assert sentence(process).startswith("could not load: ")


@pytest.mark.slow
def test_a_load_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    with demo("--model", str(tmp_path / "nothing")) as process:
        told = sentence(process)
        assert told.startswith("could not load: ") and "nothing" in told


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_answer_is_told(tmp_path: Path) -> None:
    with demo() as process:
        read_until(process, "> ")
        (worker,) = psutil.Process(process.pid).children()
        worker.send_signal(signal.SIGKILL)
        assert sentence(process).startswith("the worker ended with exit code -9: ")
