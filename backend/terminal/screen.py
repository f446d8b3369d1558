"""Where a command writes: with colours and moving parts on a terminal, as plain text elsewhere. rich stays in here.

On a terminal all goes to standard output. Elsewhere standard output has what was asked for alone, and what is said
about it goes to standard error, so that a program can read the one and a person the other.
"""

import threading
import time
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from backend.terminal.progress import Step

# Where nothing moves, a line in so many seconds says that something does.
PLAIN_EVERY_S: Final = 5.0
_KEPT: Final = "\n\t"
# Embeddings and overrides turn round what is shown after them, and have no end of their own.
_TURNING: Final = "\u202a\u202b\u202d\u202e"
# Control characters, and halves of a pair that no encoding has.
_NOT_SHOWN: Final = ("Cc", "Cs")


def shown(text: str) -> str:
    """Text of a model or a stranger that neither moves the cursor nor changes the terminal."""
    return "".join(char for char in text if char in _KEPT or not _acts(char))


def _acts(char: str) -> bool:
    # What Python's tables do not know yet, such as a new emoji, is text: they are older than a model's words.
    return char in _TURNING or unicodedata.category(char) in _NOT_SHOWN


class Screen:
    """Main thread, but for `Waiting.at`. Escape sequences of what is written are taken out.

    Args:
        live: Whether `out` is a terminal.
        console: Of a terminal; one of `out` unless given.
    """

    def __init__(self, out: TextIO, err: TextIO, *, live: bool, console: Console | None = None) -> None:
        self.live = live
        self._out, self._err = out, err
        self._console = console or Console(file=out, force_terminal=True, highlight=False)

    @property
    def width(self) -> int:
        """Of a line."""
        return self._console.width if self.live else 80

    def write(self, text: str, style: str = "") -> None:
        """A piece of what was asked for; ends no line by itself."""
        if self.live:
            self._console.print(Text(shown(text), style=style), end="", soft_wrap=True)
        else:
            self._out.write(shown(text))
        self._out.flush()

    def aside(self, text: str, style: str = "dim") -> None:
        """A piece of what comes beside what was asked for."""
        if self.live:
            self.write(text, style)
        else:
            self._err.write(shown(text))
            self._err.flush()

    def say(self, text: str, style: str = "dim") -> None:
        """A line about it."""
        if self.live:
            self._console.print(Text(shown(text), style=style), soft_wrap=True)
        else:
            self._err.write(f"{shown(text)}\n")
            self._err.flush()

    @contextmanager
    def waiting(self, what: str) -> "Generator[Waiting]":
        """Show that something takes a while, until it is over."""
        if not self.live:
            waiting = Waiting(Step(what=what), self)
            try:
                yield waiting
            finally:
                waiting.end()
            return
        columns = (
            SpinnerColumn(),
            # Not as markup: a model's name may have brackets.
            TextColumn("{task.description}", markup=False),
            BarColumn(30),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        bar = Progress(*columns, console=self._console, transient=True)
        task = bar.add_task(what, total=None, figures="")
        waiting = Waiting(Step(what=what), self, bar, task)
        with bar:
            try:
                yield waiting
            finally:
                waiting.end()


class Waiting:
    """What is waited for now. Any thread."""

    def __init__(self, step: Step, screen: Screen, bar: Progress | None = None, task: TaskID | None = None) -> None:
        self._screen, self._bar, self._task = screen, bar, task
        self._lock = threading.Lock()
        self._said_at = time.monotonic()
        self._over = False
        self.step = step

    def end(self) -> None:
        """It is over; what is told from now on is of no interest."""
        with self._lock:
            self._over = True

    def at(self, step: Step) -> None:
        """It is so far."""
        with self._lock:
            if self._over:
                return
            self.step = step
            if self._bar is not None and self._task is not None:
                self._bar.update(
                    self._task,
                    description=shown(step.what),
                    completed=step.done,
                    total=step.total or None,
                    figures=step.figures,
                )
            elif time.monotonic() - self._said_at >= PLAIN_EVERY_S:
                self._said_at = time.monotonic()
                self._screen.say(step.line)
