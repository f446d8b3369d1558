"""docs/reliability.md and docs/security.md against the tests that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("reliability.md", "security.md")
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def shown(page: str) -> list[list[str]]:
    """The cells of each row of the page's tables whose last column says what shows it."""
    found: list[list[str]] = []
    inside = False
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        inside = line.endswith("| shown by |") or (inside and line.startswith("|"))
        if inside and not line.endswith("| shown by |") and "|---" not in line:
            found.append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return found


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


def test_every_test_that_the_table_of_what_hangs_names_is_there() -> None:
    _, _, rest = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## What hangs")
    named = NAMED.findall(rest)
    assert len(named) > 10
    assert not [name for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_what_shows_it(page: str) -> None:
    told = shown(page)
    assert len(told) > 30
    assert not [row[0] for row in told if not NAMED.search(row[-1])]
