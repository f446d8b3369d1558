"""Rows and marks, and the three forms in which they are told."""

import io
import json
from pathlib import Path

from backend.check.report import Mark, Report, Row, shown, table


def report(file: Path | None = None) -> tuple[Report, io.StringIO, io.StringIO]:
    out, progress = io.StringIO(), io.StringIO()
    made = Report(out=out, progress=progress, file=file)
    made.facts = {"worker": "w 1", "device": "gpu (X)", "blas": ""}
    return made, out, progress


def test_a_row_is_told_as_it_comes_and_the_table_at_the_end() -> None:
    made, out, progress = report()
    made.add(Row(section="decode", name="1 row", value=0.9, unit="x", mark=Mark.SLOW, note="why"))
    assert progress.getvalue() == "decode: 1 row: 0.9 x [slow] why\n"
    made.print_table()
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["|", "section", "|", "what", "|", "value", "|", "mark", "|", "note", "|"]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["decode", "1 row", "0.9 x", "slow", "why"]


def test_the_line_has_the_facts_the_counts_and_what_is_bad() -> None:
    made, *_ = report()
    made.add(Row(section="a", name="right", mark=Mark.OK))
    made.add(Row(section="a", name="figure", value=1.0))
    made.add(Row(section="b", name="late", value=12.0, unit="ms", mark=Mark.SLOW))
    made.add(Row(section="b", name="bad", value="other", mark=Mark.WRONG))
    assert made.line() == (
        "mlx-worker check: w 1; gpu (X); 1 ok, 1 slow, 1 WRONG, 0 not applicable; "
        "b: late 12 ms slow; b: bad other WRONG"
    )


def test_the_file_is_whole_after_each_section(tmp_path: Path) -> None:
    made, *_ = report(tmp_path / "sub" / "a.json")
    made.add(Row(section="a", name="x", value=1.5, unit="ms", detail={"rounds": [1.0, 2.0]}))
    made.ended("a", 0.5)
    told = json.loads((tmp_path / "sub" / "a.json").read_text())
    assert told["rows"][0]["detail"] == {"rounds": [1.0, 2.0]} and told["rows"][0]["mark"] == "-"
    assert told["seconds"] == {"a": 0.5} and told["facts"]["device"] == "gpu (X)"
    made.add(Row(section="b", name="y", mark=Mark.WRONG))
    assert len(json.loads((tmp_path / "sub" / "a.json").read_text())["rows"]) == 1
    made.ended("b", 0.1)
    assert json.loads((tmp_path / "sub" / "a.json").read_text())["marks"]["WRONG"] == 1
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.json"]


def test_values_have_three_digits_and_whole_numbers_all() -> None:
    told = [shown(Row(section="", name="", value=value, unit="u")) for value in (0.012345, 8.0, 1234.5, -0.5, None)]
    assert told == ["0.0123 u", "8 u", "1,234 u", "-0.5 u", ""]
    assert shown(Row(section="", name="", value="text", unit="u")) == "text"


def test_a_table_is_aligned_but_for_its_last_column() -> None:
    assert table(["a", "b"], [["long", "long"], ["x", "y"]]).splitlines() == [
        "| a    | b |",
        "| ---- | --- |",
        "| long | long |",
        "| x    | y |",
    ]
