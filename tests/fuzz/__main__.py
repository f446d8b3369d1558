"""Fuzz the product, each target for its share of the time.

    python -m tests.fuzz [--targets a,b] [--minutes 60] [--seed 1] [--json FILE]

Each target runs in a process of its own; one that an input kills or hangs is begun again. Inputs that break a contract
are written to `build/fuzz`, and make the exit code 1. A row is a target's name, executions, inputs that are kept, lines
that were reached of those it aims at, and finds.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.reached import ROOT
from tests.fuzz.running import Outcome, run
from tests.fuzz.target import TARGETS

FOLDER = ROOT / "build" / "fuzz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="names with commas between them; all by default")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    names = options.targets.split(",")
    if unknown := sorted(set(names) - TARGETS.keys()):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    outcomes: list[Outcome] = []
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(names):
            share = max(1.0, (end - time.monotonic()) / (len(names) - place))
            outcomes.append(run(name, seed=options.seed, seconds=share, folder=Path(folder)))
            sys.stdout.write(_row(outcomes[-1]) + "\n")
            sys.stdout.flush()
    for outcome in outcomes:
        _keep(outcome)
    if options.json:
        options.json.write_text(json.dumps([outcome.as_json() for outcome in outcomes], indent=2) + "\n")
    return 1 if any(outcome.finds for outcome in outcomes) else 0


def _row(outcome: Outcome) -> str:
    lines = f"{len(outcome.lines)} of {outcome.all_lines}" if outcome.all_lines else ""
    return f"| {outcome.name} | {outcome.executions:,} | {outcome.corpus} | {lines} | {len(outcome.finds)} |"


def _keep(outcome: Outcome) -> None:
    for number, find in enumerate(outcome.finds.values()):
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{outcome.name}-{number}"
        path.write_bytes(find.data)
        sys.stdout.write(f"\n{outcome.name}: {find.what}\n{find.told}\n{path}: {find.data!r:.400}\n")


if __name__ == "__main__":
    raise SystemExit(main())
