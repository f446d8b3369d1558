"""The benchmark of a draft model: one that is right as often as it is told to be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_runs_and_its_draft_model_is_right_as_often_as_it_is_to_be(tmp_path: Path) -> None:
    file = tmp_path / "drafting.json"
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.drafting", "--quick", "--right", "0.9", "--turns", "3", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table, turns = json.loads(file.read_text())["tables"]
    assert [row[:2] for row in table["rows"]] == [[0.9, 1]]
    for _, tokens, new, read, drafts_read, unkept in turns["rows"][1:]:
        # To read on is not always expected to pay.
        assert read <= new and drafts_read < read + 20
        assert unkept == 0 or unkept > tokens - 20
