"""What the check has found: rows with marks, as a table, a JSON file and one line."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO


class Mark(StrEnum):
    """What a row says."""

    OK = "ok"
    SLOW = "slow"
    WRONG = "WRONG"
    NOT_APPLICABLE = "not applicable"
    FIGURE = "-"  # for information: there is no mark to hold it against


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finding.

    Attributes:
        value: A number in `unit`, or text; None where there is none.
        detail: What it was made of; only the JSON file has it.
    """

    section: str
    name: str
    value: float | str | None = None
    unit: str = ""
    mark: Mark = Mark.FIGURE
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Report:
    """Every row so far. The JSON file, where there is one, is whole after each section.

    Args:
        out: For the table.
        progress: For a line a row, as it becomes known.
    """

    def __init__(self, *, out: TextIO, progress: TextIO, file: Path | None = None) -> None:
        self._out = out
        self._progress = progress
        self._file = file
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def add(self, row: Row) -> None:
        """Take a row."""
        self.rows.append(row)
        mark = "" if row.mark is Mark.FIGURE else f"[{row.mark}]"
        self.say(" ".join(filter(None, (f"{row.section}:", f"{row.name}:", shown(row), mark, row.note))))

    def say(self, text: str) -> None:
        """A line of progress."""
        print(text.rstrip(), file=self._progress, flush=True)

    def ended(self, section: str, seconds: float) -> None:
        """A section is over."""
        self.seconds[section] = seconds
        self.write()

    def write(self) -> None:
        """Put everything so far in the file."""
        if self._file is None:
            return
        told = {
            "facts": self.facts,
            "rows": [asdict(row) for row in self.rows],
            "seconds": self.seconds,
            "marks": self.counts(),
            "line": self.line(),
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # In one step: a run that is cut short leaves the last whole file.
        part = self._file.with_name(self._file.name + ".part")
        part.write_text(json.dumps(told, indent=1, default=str) + "\n")
        part.replace(self._file)

    def counts(self) -> dict[str, int]:
        """Rows by mark, those that have one."""
        found = Counter(row.mark for row in self.rows)
        return {str(mark): found[mark] for mark in Mark if mark is not Mark.FIGURE}

    def line(self) -> str:
        """Everything that a stranger needs first, to paste into an issue."""
        marks = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        found = [(f"{row.section}:", row.name, shown(row), row.mark) for row in self.rows if _is_bad(row)]
        bad = [" ".join(filter(None, words)) for words in found]
        facts = "; ".join(str(value) for value in self.facts.values() if value)
        return "mlx-worker check: " + "; ".join([facts, marks, *bad])

    def print_table(self) -> None:
        """The table, and the line."""
        cells = [(row.section, row.name, shown(row), str(row.mark), row.note) for row in self.rows]
        for text in (table(("section", "what", "value", "mark", "note"), cells), "", self.line()):
            print(text, file=self._out)
        self._out.flush()

    def has(self, mark: Mark) -> bool:
        """Whether some row has this mark."""
        return any(row.mark is mark for row in self.rows)


def _is_bad(row: Row) -> bool:
    return row.mark in (Mark.SLOW, Mark.WRONG)


def shown(row: Row) -> str:
    """The value with its unit, to three digits."""
    if row.value is None:
        return ""
    if isinstance(row.value, str):
        return row.value
    number = f"{row.value:,.0f}" if abs(row.value) >= 1000 or row.value == int(row.value) else f"{row.value:.3g}"
    return f"{number} {row.unit}".strip()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns that are a table in Markdown too."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    widths[-1] = 0  # nothing comes after it
    texts = [
        "| ".join(("", *_padded(line, widths))) + "|" for line in (headings, ["-" * max(width, 3) for width in widths])
    ]
    texts += ["| ".join(("", *_padded(line, widths))) + "|" for line in rows]
    return "\n".join(texts)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [f"{cell.ljust(width)} " for cell, width in zip(cells, widths, strict=True)]
