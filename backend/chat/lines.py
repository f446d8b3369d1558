"""The lines that a person types, with a history where there is a terminal, or that a program writes."""

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

MOST_HISTORY: Final = 1000


class Lines:
    """Lines from standard input; a text of several lines that was pasted is one, where readline knows a paste.

    Args:
        live: Whether a person types them, and sees a prompt.
        history: Where earlier lines come from, and where they are kept; None keeps them as long as the process.
    """

    def __init__(self, stdin: TextIO, *, live: bool, words: Sequence[str], history: Path | None) -> None:
        self._stdin, self._live, self._words, self._history = stdin, live, words, history
        self._readline: Any = None
        if live:
            # Python may have been built without it.
            with contextlib.suppress(ImportError):
                self._readline = importlib.import_module("readline")
                self._prepare()

    def next(self, prompt: str) -> str:
        """The next line, or the pasted lines, stripped.

        Raises:
            EOFError: There are no more.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self._live:
            text = input(prompt)
        else:
            text = self._stdin.readline()
            if not text:
                raise EOFError
        # What is no UTF-8 cannot be sent.
        return text.encode(errors="surrogateescape").decode(errors="replace").strip()

    def keep(self) -> None:
        """Write the history to its file, if it has one."""
        if self._readline is not None and self._history is not None:
            self._readline.set_history_length(MOST_HISTORY)
            with contextlib.suppress(OSError):
                self._readline.write_history_file(str(self._history))

    def _prepare(self) -> None:
        if self._history is not None:
            with contextlib.suppress(OSError):
                self._readline.read_history_file(str(self._history))
        self._readline.set_completer_delims(" ")
        self._readline.set_completer(self._complete)
        if "libedit" in (self._readline.__doc__ or ""):
            self._readline.parse_and_bind("bind ^I rl_complete")
            return
        self._readline.parse_and_bind("tab: complete")
        # Python turns it off.
        self._readline.parse_and_bind("set enable-bracketed-paste on")

    def _complete(self, text: str, state: int) -> str | None:
        found = [word for word in self._words if text.startswith("/") and word.startswith(text)]
        return found[state] if state < len(found) else None
