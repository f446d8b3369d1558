"""The benchmark of speculation serves what its scripts say, and its texts come again as much as they are to."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from backend.engine.speculation.proposal import Drafter
from backend.engine.speculation.row_drafts import Experience, RowDrafts
from benchmarks.scripts import WORKLOADS, Author, Script

ROOT = Path(__file__).parents[2]


def tokens_a_pass(script: Script, learned: Experience) -> float:
    """Over 8 drafted tokens each, at whatever cost."""
    drafts = RowDrafts(np.array(script.prompt, np.int32), kinds=frozenset({Drafter.TEXT}), experience=learned)
    at = passes = 0
    while at < len(script.answer):
        proposal = drafts.propose(8)
        coming = script.answer[at:]
        right = 0
        for drafted, wanted in zip(proposal.tokens if proposal else (), coming, strict=False):
            if drafted != wanted:
                break
            right += 1
        for token in coming[: right + 1]:
            drafts.told(token)
        at, passes = at + right + 1, passes + 1
    return len(script.answer) / passes


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("rewrite a file", 4.5, 7), ("str_replace calls", 1.7, 2.8), ("JSON of a result", 2.2, 3.6), ("prose", 1.03, 1.2)],
)
def test_texts_come_again_as_those_do_that_they_stand_for(kind: str, least: float, most: float) -> None:
    learned = Experience()
    assert least <= mean(tokens_a_pass(WORKLOADS[kind](Author(seed), 256), learned) for seed in range(8)) <= most


@pytest.mark.slow
def test_it_runs_and_rows_that_copy_get_several_tokens_a_step(tmp_path: Path) -> None:
    file = tmp_path / "speculation.json"
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.speculation",
            "--quick",
            "--workloads",
            "rewrite a file",
            "--json",
            str(file),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    (table,) = json.loads(file.read_text())["tables"]
    column = table["headings"].index("tokens a step")
    assert [row[1] for row in table["rows"]] == [1, 4] and all(row[column] > 1 for row in table["rows"])
