"""The composition root: `mlx-worker`, or `python -m backend`, and one of the commands."""

import asyncio
import contextlib
import importlib
import io
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Never

from backend.process.commands import SERVE, chosen
from backend.process.early_signals import stop_at_once
from backend.process.exit_codes import ExitCode
from backend.process.log import start_log
from backend.process.open_files import raise_open_files
from backend.process.parent_watch import first_parent

if TYPE_CHECKING:
    from backend.engine.ranks.world import World
    from backend.process.log import Log
    from backend.process.settings import Settings
    from backend.process.worker import Ending, StartableEngine

SWITCH_SECONDS = 0.001
# What a shell has for a program that the closed pipe itself ended.
EXIT_PIPE_CLOSED = 141
_MODULES = {
    "bench": "backend.bench.command",
    "cache": "backend.cache_command.command",
    "chat": "backend.chat.command",
    "doctor": "backend.doctor.command",
    "ranks": "backend.ranks_command.command",
}


def main(
    arguments: Sequence[str] | None = None, make_engine: "Callable[[Settings], StartableEngine] | None" = None
) -> Never:
    """Run the worker, or the command that comes first, and leave the process."""
    parent = first_parent(os.environ)
    fill_standard_streams()
    os.umask(0o077)
    # A core would hold prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A Health takes the interpreter lock a few times; by default each may wait 5 ms for a thread at work.
    sys.setswitchinterval(SWITCH_SECONDS)
    # After what is set for the process: a check measures what a worker has.
    command, given = chosen(sys.argv[1:] if arguments is None else arguments)
    if command != SERVE:
        with needed_packages():
            code = _run_command(command, given)
        flush_standard_streams()
        leave(code)
    stop_at_once(lambda: leave(ExitCode.STOPPED))
    # Before grpc is imported: its own lines would come last on standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with needed_packages():
        from backend.core.freed_memory import share_arenas
        from backend.process.settings import parse_settings

    share_arenas()
    settings = parse_settings(given, os.environ)
    log = start_log(settings.log_level, settings.log_format)
    raise_open_files()
    world = _world()
    if world is not None and world.rank:
        _follow(world, settings.blas, log)
    with needed_packages():
        importlib.import_module("backend.process.worker")
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


def _world() -> "World | None":
    from backend.engine.ranks.world import BadWorld, world_of

    try:
        return world_of(os.environ)
    except BadWorld as error:
        sys.stderr.write(f"mlx-worker: {error}\n")
        leave(ExitCode.USAGE)


def _follow(world: "World", blas: str, log: "Log") -> Never:
    """Be one of the ranks that serve nothing themselves."""
    from backend.engine.ranks.follower import follow

    def end(meant: bool, sentence: str) -> Never:
        if not meant:
            log.last_words(sentence)
        log.close()
        leave(ExitCode.STOPPED if meant else ExitCode.RANK_LOST)

    follow(world, blas, end)


def _run_command(command: str, given: Sequence[str]) -> int:
    """The exit code of a command that serves nothing. Each is imported where it is run: none needs what others do."""
    if command == "check":
        from backend.check.command import check

        # It removes what it has written, and tells what it has found so far.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return check(given)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Python has none where the shell has closed them.
    sys.stdin, sys.stdout, sys.stderr = (stream or io.StringIO() for stream in (sys.stdin, sys.stdout, sys.stderr))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal's encoding may lack a letter of what is shown.
        sys.stdout.reconfigure(errors="backslashreplace")
    module = importlib.import_module(_MODULES[command])
    try:
        return getattr(module, command)(given, os.environ)
    except BrokenPipeError:
        return EXIT_PIPE_CLOSED


async def _run(settings: "Settings", make_engine: "Callable[[Settings], StartableEngine]", parent: int) -> "Ending":
    from backend.process.worker import Worker

    return await Worker(settings, lambda: make_engine(settings), parent=parent).run()


def engine_of(settings: "Settings") -> "StartableEngine":
    """The real engine; its thread imports MLX once the port is open."""
    from backend.engine.handle import EngineHandle

    world = _world()
    if world is not None:
        from backend.engine.ranks.handle import RankedHandle

        return RankedHandle(world, blas=settings.blas)
    return EngineHandle(blas=settings.blas)


@contextlib.contextmanager
def needed_packages() -> Generator[None]:
    """End in a sentence where this Python lacks a package, as one whose set-up was cut short does."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "backend", "mlx_cache"):
            raise
        advice = "run make setup, or name another Python in MLX_WORKER_PYTHON"
        sys.stderr.write(f"mlx-worker: {sys.executable} has no package {name}: {advice}\n")
        leave(ExitCode.USAGE)


def fill_standard_streams() -> None:
    """Open what the host closed of descriptors 0 to 2: the next socket would take its place, and get the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def flush_standard_streams() -> None:
    """Write what a pipe has not been given yet; one that nobody reads any more takes nothing."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that the shell has closed is None.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def leave(code: int) -> Never:
    """End the process without Python's own clean-up, in which a thread that holds MLX objects can abort it."""
    os._exit(code)


if __name__ == "__main__":
    main()
