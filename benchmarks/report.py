"""The arguments that every benchmark knows, and its report: tables on standard output, a JSON file, a picture."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark knows."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--plot", type=Path, help="where the picture goes, if there is one; default: beside the JSON")
    return parser


def parse(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The arguments of this process; with --quick, `quick` has the defaults of those that are not given."""
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


class Report:
    """What a benchmark tells, as it becomes known: the JSON file is whole after each table."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json: Path | None = options.json
        self._plot: Path | None = options.plot or (options.json and options.json.with_suffix(".png"))
        self._told: dict[str, Any] = {"command": sys.argv, "quick": options.quick, "notes": [], "tables": []}

    def note(self, line: str) -> None:
        """A line of text: what was measured on what."""
        print(line, flush=True)
        self._told["notes"].append(line)
        self._write()

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table in Markdown."""
        print("\n" + markdown(headings, rows) + "\n", flush=True)
        self._told["tables"].append({"headings": headings, "rows": rows})
        self._write()

    def plot(self, draw: Callable[[Any], None]) -> None:
        """A picture of one pair of axes, which `draw` fills, if somebody wants it."""
        if self._plot is None:
            return
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 3.6))
        draw(axes)
        axes.legend()
        figure.tight_layout()
        self._plot.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(self._plot, dpi=100)
        plt.close(figure)

    def _write(self) -> None:
        if self._json is not None:
            self._json.parent.mkdir(parents=True, exist_ok=True)
            self._json.write_text(json.dumps(self._told, indent=1) + "\n")


def markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, its numbers to three digits."""
    lines = [" | ".join(headings), " | ".join("---" for _ in headings)]
    lines += [" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
