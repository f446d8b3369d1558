"""The words that `mlx-worker` takes, and which one is meant."""

import sys
from collections.abc import Sequence
from typing import Final

from backend.process.exit_codes import ExitCode

SERVE: Final = "serve"
COMMANDS: Final = {
    SERVE: "serve a model over gRPC; so does mlx-worker without a command",
    "chat": "talk to a model",
    "bench": "measure a worker under load, alone or beside another server",
    "doctor": "look for what is wrong with this machine, this environment or a model's files",
    "check": "try the worker out on this machine, beside mlx-lm",
    "cache": "look at the prompt cache of a running worker, or of a directory",
    "ranks": "serve one model over several processes or machines",
    "help": "this; with a command, what that takes",
}


def chosen(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command and its arguments; a word that is none ends the process as argparse does."""
    rest = list(arguments)
    while rest[:1] == ["help"]:
        rest = [*rest[1:2], "--help"]
    if not rest or rest[0].startswith("-"):
        return SERVE, rest
    if rest[0] not in COMMANDS:
        sys.stderr.write(f"mlx-worker: no command {rest[0]!r}; mlx-worker help lists them\n")
        raise SystemExit(ExitCode.USAGE)
    return rest[0], rest[1:]


def listed() -> str:
    """Every command with what it does, a line each."""
    width = max(map(len, COMMANDS))
    return "\n".join(f"  {name.ljust(width)}  {told}" for name, told in COMMANDS.items())
