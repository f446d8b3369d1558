"""`mlx-worker cache`: arguments in, lines and an exit code out. Nothing that is to be expected ends in a traceback."""

import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO

from backend.cache_command.answer import EXIT_USAGE, Answer, Failed
from backend.cache_command.options import Options, parse_options
from backend.terminal.showing import one_line

EXIT_INTERRUPTED: Final = 130
# What a shell has for a program that the closed pipe itself ended.
EXIT_PIPE_CLOSED: Final = 141
_PROGRAM: Final = "mlx-worker cache"


def cache(arguments: Sequence[str], environment: Mapping[str, str], *, stdin: TextIO | None = None) -> int:
    """Run the command and print what it has to say; the exit code.

    Args:
        stdin: Where the answer to a question comes from; standard input unless given.
    """
    # Python has none where the shell has closed them.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal's encoding may lack a letter of a path.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _code(arguments, environment, stdin or sys.stdin)
        sys.stdout.flush()
    except BrokenPipeError:
        return EXIT_PIPE_CLOSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _code(arguments: Sequence[str], environment: Mapping[str, str], stdin: TextIO | None) -> int:
    try:
        options = parse_options(arguments, environment)
        _confirm(options, stdin)
        answer = _answer(options)
    except SystemExit as ended:
        return int(ended.code or 0)
    except Failed as why:
        _complain(str(why))
        return why.code
    except BrokenPipeError:
        raise
    except OSError as error:
        _complain(str(error))
        return 1
    for line in [json.dumps(answer.data)] if options.json else answer.lines:
        sys.stdout.write(f"{line}\n")
    for line in answer.bad:
        _complain(line)
    return answer.code


def _answer(options: Options) -> Answer:
    # Each in its place: a directory needs no grpc, and a worker no catalog of files.
    if isinstance(options.where, Path):
        from backend.cache_command.on_directory import opened

        # What verify finds it says itself.
        logging.basicConfig(level=logging.ERROR if options.verb == "verify" else logging.WARNING, format="%(message)s")
        with opened(options.where) as directory:
            return directory.run(options)
    from backend.cache_command.client import PromptCacheClient
    from backend.cache_command.on_worker import run

    with PromptCacheClient(options.where) as client:
        return run(options, client)


def _confirm(options: Options, stdin: TextIO | None) -> None:
    if options.verb != "clear" or options.yes:
        return
    # A process that was started without one has none.
    if stdin is None or not stdin.isatty():
        raise Failed("clear: --yes says that it is meant", EXIT_USAGE)
    sys.stderr.write(f"Drop {_what(options)}? [y/N] ")
    sys.stderr.flush()
    if stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failed("nothing was cleared")


def _what(options: Options) -> str:
    if isinstance(options.where, Path):
        whose = (
            "every model's" if options.all_models else f"model {options.model}'s" if options.model else "the model's"
        )
        return f"{whose} files and names in {options.where}"
    place = options.where.address.target
    if options.everything:
        return f"what every tenant has in the prompt cache of {place}"
    return (
        f"what {'this tenant' if options.where.salt else 'those without a tenant'} have in the prompt cache of {place}"
    )


def _complain(line: str) -> None:
    sys.stderr.write(f"{_PROGRAM}: {one_line(line)}\n")
