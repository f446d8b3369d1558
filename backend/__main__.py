"""The composition root: `python -m backend --addr HOST:PORT`."""

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Never

from backend.process.exit_codes import ExitCode
from backend.process.log import start_log
from backend.process.open_files import raise_open_files
from backend.process.parent_watch import first_parent

if TYPE_CHECKING:
    from backend.process.settings import Settings
    from backend.process.worker import Ending, StartableEngine

SWITCH_SECONDS = 0.001


def main(
    arguments: Sequence[str] | None = None, make_engine: "Callable[[Settings], StartableEngine] | None" = None
) -> Never:
    """Run the worker, or with `check` or `cache` first that command, and leave the process."""
    parent = first_parent(os.environ)
    fill_standard_streams()
    os.umask(0o077)
    # A core would hold prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A Health takes the interpreter lock a few times; by default each may wait 5 ms for a thread at work.
    sys.setswitchinterval(SWITCH_SECONDS)
    given = sys.argv[1:] if arguments is None else arguments
    # After what is set for the process: a check measures what a worker has.
    if given[:1] == ["check"]:
        from backend.check.command import check

        # It removes what it has written, and tells what it has found so far.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        leave(check(given[1:]))
    # Before grpc is imported: its own lines would come last on standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if given[:1] == ["cache"]:
        from backend.cache_command.command import cache

        leave(cache(given[1:], os.environ))
    from backend.core.freed_memory import share_arenas
    from backend.process.settings import parse_settings

    share_arenas()
    settings = parse_settings(given, os.environ)
    log = start_log(settings.log_level, settings.log_format)
    raise_open_files()
    try:
        ending = asyncio.run(_run(settings, make_engine or engine_of, parent))
        code, sentence = ending.code, ending.sentence
    except Exception as error:
        logging.getLogger(__name__).critical("fault", exc_info=True)
        code, sentence = ExitCode.FAULT, f"stopped by its own fault, {type(error).__name__}"
    if code is not ExitCode.STOPPED:
        log.last_words(sentence)
    log.close()
    leave(code)


async def _run(settings: "Settings", make_engine: "Callable[[Settings], StartableEngine]", parent: int) -> "Ending":
    from backend.process.worker import Worker

    return await Worker(settings, lambda: make_engine(settings), parent=parent).run()


def engine_of(settings: "Settings") -> "StartableEngine":
    """The real engine; its thread imports MLX once the port is open."""
    from backend.engine.handle import EngineHandle

    return EngineHandle(blas=settings.blas)


def fill_standard_streams() -> None:
    """Open what the host closed of descriptors 0 to 2: the next socket would take its place, and get the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def leave(code: int) -> Never:
    """End the process without Python's own clean-up, in which a thread that holds MLX objects can abort it."""
    os._exit(code)


if __name__ == "__main__":
    main()
