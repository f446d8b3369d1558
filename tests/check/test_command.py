"""The whole check, of a tiny random model: what is right is found right, what was broken on purpose is found WRONG."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from backend.check.command import EXIT_INTERRUPTED, EXIT_WRONG, check
from backend.check.options import SECTIONS
from backend.check.sections import launches
from backend.engine.batching.pooled import texts, units
from backend.engine.batching.prefix_cache import PrefixCache, Reused
from backend.engine.kv.going_back import Pass
from backend.engine.loading import LoadedModel, load_model
from backend.engine.sampling.row_sampling import RowSampling
from tests.tiers import slow

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "tiny-chat" / "model"


def command(file: Path, scratch: Path, *arguments: str) -> list[str]:
    where = ["--json", str(file), "--scratch", str(scratch)]
    return [sys.executable, "-m", "backend", "check", "--shape", "tiny", *where, *arguments]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", pytest.param("device", marks=pytest.mark.exhaustive)])
def test_the_command_runs_every_section_and_finds_nothing_wrong(sampler: str, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "check.json"
    bounds = ["--quick", "--seconds", "5", "--sampler", sampler]
    run = subprocess.run(command(file, tmp_path, *bounds), cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(file.read_text())
    assert {row["section"] for row in told["rows"]} == {"load", *SECTIONS}
    assert not [row for row in told["rows"] if row["mark"] == "WRONG"]
    assert told["seconds"].keys() == {*SECTIONS, "all"}
    # Judged, and not merely left out.
    judged = {(row["section"], row["name"]) for row in told["rows"] if row["mark"] == "ok"}
    assert {("exactness", "crowd against alone"), ("churn", "answers against alone"), ("churn", "errors")} <= judged
    assert run.stdout.splitlines()[-1] == told["line"]
    assert told["line"].startswith("mlx-worker check: mlx-worker ")
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


@pytest.mark.slow
def test_every_section_says_what_it_found_in_this_process_too(tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    where = ["--shape", "tiny", "--scratch", str(tmp_path), "--json", str(file), "--blas", "reference"]
    assert check(["--quick", "--seconds", "1", *where]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert {row["section"] for row in rows} == {"load", *SECTIONS}
    assert not [row for row in rows if row["mark"] == "WRONG" or "failed" in row["name"]]


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="needs examples/tiny-chat/model")
def test_a_real_model_whose_answers_end_early_is_found_right(tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    where = ["--model", str(MODEL), "--json", str(file), "--blas", "reference"]
    assert check(["--quick", "--only", "exactness,churn", "--seconds", "3", *where]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert any(row["name"] == "answers against alone" and row["mark"] == "ok" for row in rows)


@pytest.mark.slow
def test_a_run_that_is_ended_leaves_its_figures_and_no_model(tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    process = subprocess.Popen(
        command(file, tmp_path, "--only", "device,churn", "--seconds", "60"),
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("churn: "):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == EXIT_INTERRUPTED, rest
    finally:
        process.kill()
        process.stderr.close()
    told = json.loads(file.read_text())
    assert "all: interrupted" in rest
    assert {row["section"] for row in told["rows"]} == {"load", "device", "all"}
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]


def checked(
    tmp_path: Path, only: str, *more: str, load: Callable[..., LoadedModel] = load_model
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the rows by section and name, of a check in this process."""
    file = tmp_path / "check.json"
    where = ["--json", str(file), "--scratch", str(tmp_path), "--blas", "reference"]
    code = check(["--shape", "tiny", "--only", only, "--seconds", "2", *where, *more], load=load)
    rows = json.loads(file.read_text())["rows"]
    return code, {f"{row['section']}: {row['name']}": row for row in rows}


def wrong(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in rows.items() if row["mark"] == "WRONG"}


def test_a_model_that_decodes_otherwise_in_company_is_found_wrong(tmp_path: Path) -> None:
    def load(*args: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*args, **options)
        right = loaded.model

        def in_company(tokens: mx.array, cache: Any = None) -> mx.array:
            logits = right(tokens, cache=cache)
            # The mildest leak: half a nat from row to row.
            return logits if tokens.shape[0] == 1 else logits + 0.5 * mx.tanh(mx.roll(logits, 1, axis=0))

        return replace(loaded, model=in_company)

    code, rows = checked(tmp_path, "exactness", "--quick", load=load)
    assert code == EXIT_WRONG
    assert wrong(rows) == {"exactness: crowd against alone", "exactness: crowd against mlx-lm"}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        slow("exactness", {"after a cache hit against alone", "after a cache hit against mlx-lm"}),
        slow("prompt_cache", {"what 1000 tokens come back as"}),
    ],
)
def test_a_prompt_cache_that_restores_something_else_is_found_wrong(
    section: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = PrefixCache.fetch

    def fetch(self: PrefixCache, *args: Any, **options: Any) -> Reused:
        reused = right(self, *args, **options)
        for cache in reused.caches or []:
            cache.keys = cache.keys + 0.05
        return reused

    monkeypatch.setattr(PrefixCache, "fetch", fetch)
    code, rows = checked(tmp_path, section, "--quick")
    assert code == EXIT_WRONG
    assert {f"{section}: {name}" for name in expected} <= wrong(rows)
    assert "exactness: crowd against alone" not in wrong(rows)


@pytest.mark.slow
def test_a_sampler_that_does_not_keep_to_the_seed_is_found_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, asked = RowSampling.key, [0]

    def key(self: RowSampling, purpose: Any) -> Any:
        asked[0] += 1
        self.step += asked[0]
        try:
            return right(self, purpose)
        finally:
            self.step -= asked[0]

    monkeypatch.setattr(RowSampling, "key", key)
    code, rows = checked(tmp_path, "exactness", "--quick")
    assert code == EXIT_WRONG
    assert "exactness: alone once more against alone" in wrong(rows)
    # What was drawn is likely enough: only that it is something else is wrong.
    assert "exactness: alone against mlx-lm" not in wrong(rows)


def test_a_greedy_step_has_at_most_three_launches_more_than_mlx_lms_and_no_more_waits(tmp_path: Path) -> None:
    _, rows = checked(tmp_path, "launches", "--quick", "--sampler", "device")
    for count in ("1 row", "8 rows"):
        row = rows[f"launches: launches a step, {count}, greedy"]
        ours, theirs = (sum(row["detail"][side].values()) for side in ("ours", "theirs"))
        # The model's own are among them.
        assert 0.9 * theirs < ours <= theirs + 3, (count, row["detail"])
        assert rows[f"launches: waits a step, {count}, greedy"]["value"] == 1.0


@pytest.mark.slow
def test_guessed_tokens_that_change_an_answer_are_found_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Pass.keep

    def keep(self: Pass, counts: Sequence[int]) -> None:
        right(self, counts)
        for cache in self._caches:
            cache.keys = cache.keys + 0.5

    def load(*args: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*args, **options)
        # The load's own trial would refuse it.
        monkeypatch.setattr(Pass, "keep", keep)
        return loaded

    code, rows = checked(tmp_path, "speculation", "--quick", load=load)
    assert code == EXIT_WRONG
    assert "speculation: guessed alone against not" in wrong(rows)


@pytest.mark.slow
def test_embeddings_and_scores_of_other_places_are_found_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        units, "picked", lambda hidden, lengths, pooling: texts.picked(hidden, [n - 1 for n in lengths], pooling)
    )
    code, rows = checked(tmp_path, "pooled", "--quick")
    assert code == EXIT_WRONG
    assert wrong(rows) == {
        "pooled: embeddings one at a time, against the model's own",
        "pooled: embeddings together, against the model's own",
    }


@pytest.mark.slow
def test_codes_that_are_restored_as_others_are_found_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = PrefixCache.fetch

    def fetch(self: PrefixCache, *args: Any, **options: Any) -> Reused:
        reused = right(self, *args, **options)
        for cache in reused.caches or []:
            codes, scales, biases = cache.keys
            cache.keys = codes, scales, biases + 0.05
        return reused

    monkeypatch.setattr(PrefixCache, "fetch", fetch)
    code, rows = checked(tmp_path, "quantised_kv", "--quick")
    assert code == EXIT_WRONG
    assert wrong(rows) == {"quantised_kv: codes: after a cache hit against alone"}


def test_a_section_that_fails_is_one_row_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(section: object) -> None:
        raise ValueError("it broke\nin two lines")

    monkeypatch.setattr(launches, "run", fails)
    code, rows = checked(tmp_path, "device,launches,leaving", "--quick")
    assert code == EXIT_WRONG
    assert wrong(rows) == {"launches: failed"}
    assert rows["launches: failed"]["note"] == "ValueError: it broke in two lines"
    assert any(name.startswith("leaving: ") for name in rows)
    line = capsys.readouterr().out.splitlines()[-1]
    assert "1 WRONG" in line and line.endswith("; launches: failed WRONG")


def test_a_model_that_does_not_load_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    assert check(["--model", str(tmp_path / "none"), "--json", str(file), "--blas", "reference"]) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert row["section"] == "load" and row["mark"] == "WRONG" and "none" in row["note"]


def test_sections_that_time_does_not_reach_say_so(tmp_path: Path) -> None:
    code, rows = checked(tmp_path, "device,churn", "--budget-seconds", "1e-9")
    assert code == 0
    assert rows["churn: not run"]["mark"] == "not applicable"
