"""Memory as Status tells it, with and without /proc."""

import os
from pathlib import Path

import pytest

from backend.engine.reports import STATUS_FILE, peak_bytes, resident_bytes, status
from tests import observed


@pytest.mark.skipif(not STATUS_FILE.exists(), reason="no /proc")
def test_resident_bytes_are_those_of_this_process() -> None:
    assert resident_bytes() == pytest.approx(observed.resident_bytes(os.getpid()), rel=0.1)


def test_without_proc_the_peak_stands_for_a_process_that_has_no_model(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "none") == 0
    told = status("uninitialized", None, tmp_path / "none").total_bytes
    # The peak is never less than what is there, and was not many times that either: the unit is right.
    resident = observed.resident_bytes(os.getpid())
    assert 0.9 * resident < told <= peak_bytes() and told < 100 * resident
