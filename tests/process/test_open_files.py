"""The worker raises its limit of open files as far as it may."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from backend.process.open_files import raise_open_files
soft, hard = {limits}
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
{before}
raise_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
FAILING = """
def refused(*_): raise ValueError("not allowed to raise maximum limit")
resource.setrlimit = refused
"""


@pytest.mark.parametrize(
    ("limits", "before", "after"),
    [
        ((256, 8192), "", (4096, 8192)),
        ((256, 1024), "", (1024, 1024)),
        ((5000, 8192), "", (5000, 8192)),
        ((256, 8192), FAILING, (256, 8192)),
    ],
)
def test_the_soft_limit_is_raised_to_what_is_wanted_and_allowed(
    limits: tuple[int, int], before: str, after: tuple[int, int]
) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < max(limits):
        pytest.skip("this system allows fewer open files")
    program = PROGRAM.format(limits=limits, before=before)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert tuple(map(int, told.stdout.split())) == after
