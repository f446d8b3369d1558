"""What every benchmark knows, so that one command runs them all and keeps their figures."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Report, arguments, parse

ROOT = Path(__file__).parents[2]
REPORTING = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if re.search("^from benchmarks.report import", path.read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("name", REPORTING)
def test_every_benchmark_takes_the_arguments_that_make_bench_gives(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)  # imported by another benchmark
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--json" in told and "--quick" in told


def test_make_bench_runs_those_and_no_other() -> None:
    made = subprocess.run(
        ["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    (names,) = re.findall(r"for name in ([\w ]+);", made.stdout)
    assert sorted(names.split()) == REPORTING


@pytest.mark.slow
def test_a_benchmark_runs_to_its_end_and_leaves_its_figures_and_picture(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "sharing.json"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cache_sharing", "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    (table,) = json.loads(file.read_text())["tables"]
    assert len(table["rows"]) == 3 and f"| {' | '.join(table['headings'])} |" in run.stdout
    assert file.with_suffix(".png").stat().st_size > 0


def test_without_the_trace_its_benchmark_says_so_and_ends_well(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cache_trace", "--trace", str(tmp_path / "none")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0 and "THE TRACE IS MISSING" in run.stderr


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A parser of one size, asked as on a command line."""

    def ask(*argv: str) -> int:
        parser = arguments(None)
        parser.add_argument("--size", type=int, default=100)
        monkeypatch.setattr(sys, "argv", ["a", *argv])
        return parse(parser, size=2).size

    return ask


def test_quick_changes_the_sizes_that_are_not_given(asked: Any) -> None:
    assert (asked(), asked("--quick"), asked("--quick", "--size=7")) == (100, 2, 7)


def test_the_file_is_whole_after_each_table(tmp_path: Path) -> None:
    options = arguments(None).parse_args(["--json", str(tmp_path / "a.json")])
    report = Report(options)
    report.table(["a", "b"], [[1, 0.12345]])
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["tables"] == [{"headings": ["a", "b"], "rows": [[1, 0.12345]]}]
