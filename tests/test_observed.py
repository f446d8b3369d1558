"""What tests see of a process, on systems that show less than Linux does."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests import observed


@pytest.fixture
def child() -> Iterator["subprocess.Popen[str]"]:
    """A process with a variable, that ends with its input."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "A_NAME": "a value"},
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize(
    "linux", [pytest.param(True, marks=pytest.mark.skipif(not psutil.LINUX, reason="no /proc")), False]
)
def test_a_process_is_seen_with_and_without_proc(
    child: "subprocess.Popen[str]", linux: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "LINUX", linux)
    assert observed.threads(child.pid).total() == 1
    assert observed.descriptors(child.pid).total() == 3
    assert observed.environment(child.pid)["A_NAME"] == "a value"
    assert 1 << 20 < observed.resident_bytes(child.pid) < 1 << 30


def test_a_process_that_ended_does_not_run_though_nobody_waited_for_it(child: "subprocess.Popen[str]") -> None:
    assert observed.is_running(child.pid)
    child.kill()
    until = time.monotonic() + 60
    while observed.is_running(child.pid):  # not waitid: macOS has none before Python 3.13
        assert time.monotonic() < until
        time.sleep(0.01)
    child.wait(30)
    assert not observed.is_running(child.pid)
