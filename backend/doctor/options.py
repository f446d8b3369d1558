"""The arguments of `mlx-worker doctor`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """What is looked at.

    Attributes:
        model: A directory or hub name; empty for none.
        load_options: Of its load, `key:value`.
        settings: Flags of the worker that is meant, beside its environment.
    """

    model: str
    load_options: tuple[str, ...]
    settings: tuple[str, ...]
    hub: bool
    json: bool


def parse_options(arguments: Sequence[str]) -> DoctorOptions:
    """Options from arguments; a wrong one ends the process as argparse does, with code 2."""
    parser = argparse.ArgumentParser(
        prog="mlx-worker doctor",
        allow_abbrev=False,
        description="Look for what is wrong with this machine, this environment or a model's files.",
        epilog="The worker's own MLX_WORKER_ variables count. Exit code 1 when something is bad.",
    )
    parser.add_argument("--model", default="", help="also look at this model's files: a directory or hub name")
    parser.add_argument("--option", action="append", default=[], metavar="KEY:VALUE", help="of that model's load")
    for flag in ("--addr", "--blas", "--prompt-cache-dir"):
        parser.add_argument(flag, help="as the worker's")
    parser.add_argument("--hub", action="store_true", help="also ask the hub whether it answers, and has the model")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_args(list(arguments))
    flags = {"--addr": given.addr, "--blas": given.blas, "--prompt-cache-dir": given.prompt_cache_dir}
    return DoctorOptions(
        model=given.model,
        load_options=tuple(given.option),
        settings=tuple(f"{flag}={value}" for flag, value in flags.items() if value is not None),
        hub=given.hub,
        json=given.json,
    )
