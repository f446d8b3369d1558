"""examples/go-host against a real worker, where there is Go and its modules can be had."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "go-host"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/opt/homebrew/bin")
FETCH_SECONDS = 240
BUILD_AND_TEST_SECONDS = 420

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(FETCH_SECONDS + BUILD_AND_TEST_SECONDS),
    pytest.mark.skipif(GO is None, reason="Go is not installed: examples/go-host was not tried"),
]


def go(*arguments: str, seconds: float) -> "subprocess.CompletedProcess[str]":
    assert GO is not None
    env = {**os.environ, "MLX_WORKER_PYTHON": sys.executable, "GOTOOLCHAIN": "local"}
    return subprocess.run([GO, *arguments], cwd=EXAMPLE, env=env, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def modules() -> None:
    """Fetched by the machine's own settings: GOPROXY, GOFLAGS and so on."""
    try:
        fetched = go("mod", "download", seconds=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"Go's modules were not fetched within {FETCH_SECONDS} s: examples/go-host was not tried")
    if fetched.returncode:
        pytest.skip(f"Go's modules cannot be fetched, examples/go-host was not tried: {fetched.stderr[-300:]}")


@pytest.mark.usefixtures("modules")
def test_the_host_starts_streams_cancels_restarts_and_stops_a_worker() -> None:
    ended = go("test", "-count=1", "-timeout=180s", "./...", seconds=BUILD_AND_TEST_SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.usefixtures("modules")
def test_the_committed_stubs_are_those_of_the_proto() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate_go.py"), "--check", "--go", str(GO)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_AND_TEST_SECONDS)
    assert ended.returncode == 0, ended.stderr
