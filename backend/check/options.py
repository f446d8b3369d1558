"""The arguments of `mlx-worker check`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from backend.check.shapes import SHAPES
from backend.config import EngineConfig, SamplerBackend

# In the order in which they run, each with its share of a bounded time. The first request of all is a section's own,
# and the last one loads the model again.
SECTIONS: Final = {
    "device": 1,
    "first_use": 3,
    "exactness": 8,
    "decode": 20,
    "prefill": 10,
    "lengths": 8,
    "prompt_cache": 4,
    "leaving": 3,
    "launches": 3,
    "overhead": 3,
    "memory": 4,
    "speculation": 8,
    "pooled": 3,
    "churn": 20,
    "quantised_kv": 8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What is checked and how.

    Attributes:
        model: A model's directory; None makes one of `shape`.
        sections: Names of those that run, in order.
        budget_s: Seconds for all sections together, after the load; None takes what a good measurement takes.
        quick: The least of every section, however long it takes: right or wrong, but little about speed.
        churn_s: Seconds of the streams of section churn.
        strict: Whether a slow row is a failure too.
        scratch: Where the random model is written and then removed; None is the system's place.
    """

    model: Path | None
    shape: str
    sections: tuple[str, ...]
    budget_s: float | None
    quick: bool
    churn_s: float
    strict: bool
    json: Path | None
    scratch: Path | None
    blas: str
    log_level: str
    engine: EngineConfig


def parse_options(arguments: Sequence[str]) -> CheckOptions:
    """Options from arguments; a wrong one ends the process as argparse does, with code 2."""
    parser = argparse.ArgumentParser(
        prog="mlx-worker check",
        description="Check on this machine that the worker is right and fast, beside mlx-lm itself.",
        epilog="Exit code 0 when nothing is wrong, 1 when something is (with --strict also when something is slow), "
        "130 when it was interrupted.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", type=Path, help="a model's directory")
    what.add_argument(
        "--shape", choices=tuple(SHAPES), default="90m", help="random weights of this shape (default: 90m)"
    )
    parser.add_argument("--only", type=_names, default=tuple(SECTIONS), help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--skip", type=_names, default=(), help="sections to leave out")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the streams of section churn (default: 120)")
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--budget-seconds", type=float, help="bound for all sections, after the load; they share it")
    time.add_argument("--quick", action="store_true", help="the least of every section: right or wrong, not how fast")
    parser.add_argument("--json", type=Path, help="also write everything here, after each section")
    parser.add_argument("--strict", action="store_true", help="slow is a failure too")
    parser.add_argument("--scratch", type=Path, help="where the random model is written, and removed afterwards")
    parser.add_argument("--blas", default="auto", help="as the worker's")
    parser.add_argument("--sampler", choices=get_args(SamplerBackend), default="auto", help="as the worker's")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")
    given = parser.parse_args(list(arguments))
    return CheckOptions(
        model=given.model,
        shape=given.shape,
        sections=tuple(name for name in SECTIONS if name in given.only and name not in given.skip),
        budget_s=given.budget_seconds,
        quick=given.quick,
        churn_s=given.seconds,
        strict=given.strict,
        json=given.json,
        scratch=given.scratch,
        blas=given.blas,
        log_level=given.log_level,
        # No watchdog: what hangs is ended by its section's own limit.
        engine=EngineConfig(sampler=given.sampler, watchdog_s=None),
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SECTIONS)}")
    return names
