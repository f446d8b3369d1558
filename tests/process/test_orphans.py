"""Which processes are waited for by one that inherits them, and that no starter's own child is taken from it."""

import subprocess
import sys
import time

import psutil
import pytest

from backend.process.orphans import reap_orphans
from tests.process.spawned import ROOT

pytestmark = pytest.mark.skipif(not psutil.LINUX, reason="process 1 is a matter of containers")

# As process 1 inherits: the child that leads a session leaves one of its own behind.
INHERITS = """
import ctypes, subprocess, sys, time
from backend.process.orphans import reap_orphans
assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER
leave = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', ''])"
subprocess.run([sys.executable, "-c", leave], start_new_session=True, check=True)
until, reaped = time.monotonic() + 20, 0
while not reaped and time.monotonic() < until:
    reaped = reap_orphans()
    time.sleep(0.01)
print(reaped, reap_orphans())
"""


def test_one_that_was_left_behind_is_waited_for_once() -> None:
    command = [sys.executable, "-c", INHERITS]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["1", "0"]


@pytest.mark.parametrize("own_session", [True, False])
def test_the_end_of_a_child_stays_its_starters(own_session: bool) -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"], start_new_session=own_session)
    until = time.monotonic() + 60
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert reap_orphans() == 0
    assert child.wait(60) == 7
