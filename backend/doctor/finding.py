"""What the doctor finds: rows, as lines for people and as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Mark(StrEnum):
    """What a row says."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Row:
    """One finding.

    Attributes:
        found: What is there.
        advice: One sentence on what to do; empty where there is nothing to do.
    """

    name: str
    mark: Mark
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Row:
    """All is well."""
    return Row(name, Mark.OK, found)


def warn(name: str, found: str, advice: str) -> Row:
    """It works, but not as well as it could."""
    return Row(name, Mark.WARN, found, advice)


def bad(name: str, found: str, advice: str) -> Row:
    """The worker does not start, or does not serve, like this."""
    return Row(name, Mark.BAD, found, advice)


def lines(rows: Sequence[Row]) -> list[tuple[Mark, str]]:
    """A line a row, and one with its advice, each with the mark that it is of."""
    width = max((len(row.name) for row in rows), default=0)
    told: list[tuple[Mark, str]] = []
    for row in rows:
        told.append((row.mark, f"{row.mark:<4}  {row.name.ljust(width)}  {row.found}"))
        if row.advice:
            told.append((row.mark, f"      {' ' * width}  {row.advice}"))
    return told


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Rows by mark."""
    return {str(mark): sum(row.mark is mark for row in rows) for mark in Mark}


def data(rows: Sequence[Row]) -> Mapping[str, Any]:
    """All of it for machines."""
    told = [{"name": row.name, "mark": str(row.mark), "found": row.found, "advice": row.advice} for row in rows]
    return {"rows": told, "marks": counts(rows)}
