"""`mlx-worker chat`: lines in, answers out, and a worker of its own gone at the end."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from backend.chat.commands import TABLE
from backend.chat.lines import Lines
from backend.chat.loop import Loop
from backend.chat.options import ChatOptions, parse_options
from backend.chat.talking import Talk, WorkerGone
from backend.client.reached import NotReached, reached
from backend.terminal.screen import Screen
from backend.terminal.showing import count

EXIT_UNREACHABLE: Final = os.EX_UNAVAILABLE
EXIT_INTERRUPTED: Final = 130


def chat(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command; its exit code."""
    try:
        options = parse_options(arguments, environment)
        return _chat(options)
    except SystemExit as ended:
        return int(ended.code or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _chat(options: ChatOptions) -> int:
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    screen = Screen(sys.stdout, sys.stderr, live=typed and not options.plain)
    talk = Talk(options.conversation, screen, typed=typed)
    lines = Lines(sys.stdin, live=typed, words=list(TABLE), history=options.history)
    # So that a worker of ours is stopped then too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with ExitStack() as stack:
            with talk.waiting("starting a worker" if options.where.connection is None else "asking the worker"):
                worker = stack.enter_context(reached(options.where, talk.tell))
            screen.say(f"{Path(worker.info.model).name}: {count(worker.info.context)} tokens of context; /help helps")
            return Loop(talk, worker, screen, lines, typed=typed).run()
    except (NotReached, WorkerGone) as why:
        screen.say(str(why), "red")
        return EXIT_UNREACHABLE
    finally:
        lines.keep()


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
