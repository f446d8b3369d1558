"""docs/operations.md and the dashboard, against the code that they describe."""

import json
import re
from pathlib import Path
from typing import Any

from backend.cache_command.options import SALT_VARIABLE
from backend.config import TOKEN_VARIABLES
from backend.core.request import MAX_PRIORITY
from backend.engine.batching.standing import MOST_DISPLACED, SECONDS_A_LEVEL
from backend.engine.loading.kernel_cache import SHAPES_CHECK, VARIABLE
from backend.engine.ranks.world import BACKEND, CONTROL, LAUNCHER, SIZE, TOKEN
from backend.metrics.catalogue import METRICS
from backend.process.exit_codes import ExitCode
from backend.process.parent_watch import STARTED_BY
from backend.process.setting_table import SETTINGS
from backend.translate.options import OPTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DASHBOARD = ROOT / "docs" / "grafana" / "mlx-worker.json"
RANKS = (SIZE, BACKEND, CONTROL, TOKEN, LAUNCHER)
IN_CODE = {"TMPDIR", "LOCALAI_BACKEND_PARENT_WATCH", "GRPC_VERBOSITY", "MLX_WORKER_PYTHON"}


def rows(title: str) -> list[list[str]]:
    """The cells of every table below a heading."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, title
    lines = [line for line in match[1].splitlines() if line.startswith("| `") or re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_metric_has_its_row_with_its_kind_and_label() -> None:
    titles = ("Requests", "Tokens", "Speculation", "The prompt cache", "Memory", "The worker")
    told = {row[0].strip("`"): row[1] for title in titles for row in rows(title)}
    expected = {metric.exposed: metric.kind + (f", by `{metric.label}`" if metric.label else "") for metric in METRICS}
    assert told == expected


def test_every_flag_has_its_row_with_its_variables_its_default_and_its_option() -> None:
    told = {row[0].strip("`"): row for row in rows("Settings") if row[0].startswith("`--")}
    assert told.keys() == {setting.flag for setting in SETTINGS}
    for setting in SETTINGS:
        _, variables, default, says, option = told[setting.flag]
        assert re.findall(r"`([^`]+)`", variables) == list(setting.variables)
        assert (default.strip("`"), says) == (setting.default or "none", setting.help)
        assert not option or option.strip("`") in OPTIONS


def test_every_variable_without_a_flag_and_every_option_is_named() -> None:
    names = {name for row in rows("Settings") for name in re.findall(r"`([A-Z_]+)`", row[0])}
    assert names == IN_CODE | {*TOKEN_VARIABLES, STARTED_BY, SALT_VARIABLE, VARIABLE, SHAPES_CHECK, *RANKS}
    read = [path.read_text(encoding="utf-8") for path in (ROOT / "backend").rglob("*.py") if path.parent.name != "pb"]
    read.append((ROOT / "run.sh").read_text(encoding="utf-8"))
    found = {
        name for text in read for name in re.findall(r"\b(?:MLX_WORKER|LOCALAI|GRPC|MLX_PTX)_[A-Z_]+[A-Z]\b", text)
    }
    by_flag = {name for setting in SETTINGS for name in setting.variables}
    assert found - by_flag <= names, found - by_flag - names
    assert not [option for option in OPTIONS if f"`{option}`" not in PAGE]


def test_every_exit_code_has_its_row() -> None:
    assert [int(row[0]) for row in rows("Exit codes")] == list(ExitCode)


def test_priorities_are_those_of_the_code() -> None:
    assert f"from -{MAX_PRIORITY} to {MAX_PRIORITY}" in PAGE
    assert f"worth {SECONDS_A_LEVEL:.0f} seconds" in PAGE
    words = {3: "three"}
    assert f"more than {words[MOST_DISPLACED]} times" in PAGE


def test_what_the_cache_cannot_keep_of_a_row_that_leaves_is_told_whole() -> None:
    paragraph = next(part for part in PAGE.split("\n\n") if "the prompt cache cannot keep of them" in part)
    assert all(word in paragraph for word in ("is off", "has no\nroom", "`PromptCacheRO`", "`prompt_cache_all:false`"))


def expressions(part: Any) -> list[str]:
    """Every expression of a dashboard, those of its variables included."""
    if isinstance(part, dict):
        found = [text for key in ("expr", "query", "definition") if isinstance(text := part.get(key), str)]
        return found + [text for value in part.values() for text in expressions(value)]
    return [text for value in part for text in expressions(value)] if isinstance(part, list) else []


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    shown = {name for text in expressions(json.loads(DASHBOARD.read_text())) for name in re.findall(r"mlx_\w+", text)}
    kinds = {metric.exposed: metric.kind for metric in METRICS}
    expected = {name + ("_bucket" if kind == "histogram" else "") for name, kind in kinds.items()}
    assert shown == expected
