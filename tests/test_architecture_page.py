"""docs/architecture.md names every module, and no module that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNLISTED = {"backend/pb", "backend/output/formats"}


def named() -> dict[str, set[str]]:
    """Module names by folder, as the page's table has them."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("### Every module")[1].split("\n## ")[0]
    rows = [re.match(r"\| `([\w/]+)/` \|[^|]*\|(.*)\|$", line) for line in table.splitlines()]
    return {row[1]: set(re.findall(r"`(\w+)`", row[2])) for row in rows if row}


def present() -> dict[str, set[str]]:
    """Module names by folder, as the tree has them."""
    found: dict[str, set[str]] = {}
    for package in ("backend", "mlx_cache"):
        for path in (ROOT / package).rglob("*.py"):
            folder = str(path.parent.relative_to(ROOT))
            if folder not in UNLISTED and path.name != "__init__.py":
                found.setdefault(folder, set()).add(path.stem)
    return found


def test_the_table_of_modules_is_the_tree() -> None:
    tables = {folder: names for folder, names in named().items() if folder not in UNLISTED}
    assert tables == present()
