"""docs/reliability.md and docs/security.md against the tests that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("reliability.md",)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows(page: str) -> list[list[str]]:
    """The cells of each row of the page's tables, but for their heads."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads = {line for line, below in zip(text.splitlines(), text.splitlines()[1:], strict=False) if "|---" in below}
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line not in heads]


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = NAMED.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / "tests" / file).is_file() or f"def {name}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_a_test_or_says_why_not(page: str) -> None:
    """Rows of three cells and more are faults and promises; those of two say why, or are commands."""
    told = [row for row in rows(page) if len(row) >= 3]
    assert len(told) > 15
    assert not [row[0] for row in told if not NAMED.search(row[-1])]
