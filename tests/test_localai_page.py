"""docs/localai.md, against the code that it describes."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "localai.md").read_text(encoding="utf-8")


def test_events_of_the_log_have_the_names_that_the_code_gives_them() -> None:
    seen = PAGE[PAGE.index("## To see what happens") : PAGE.index("## Other ways in")]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", seen)) | {"ready", "metrics"}
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "backend").rglob("*.py")]
    events = {name for text in code for name in re.findall(r'logline\(\s*"(\w+)"', text)}
    assert {"request_ended", "metrics_off"} <= named <= events


def test_the_package_is_as_large_as_it_says(tmp_path: Path) -> None:
    package = runpy.run_path(str(ROOT / "scripts" / "package.py"))["write"](tmp_path)
    told = re.search(r"build/package/mlx-worker, ([\d.]+) MiB", PAGE)
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    assert told and abs(size / (1 << 20) - float(told[1])) < 0.2
