"""What a verb has to say, and how the command ends where it cannot say it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

EXIT_BAD: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = os.EX_UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one verb has found or done.

    Attributes:
        lines: For people, on standard output.
        data: The same for machines; what JSON can say.
        bad: A line for each thing that is wrong, on standard error; any makes the exit code 1.
        found_bad: Whether the lines themselves say that something is wrong.
    """

    lines: Sequence[str]
    data: Any
    bad: Sequence[str] = ()
    found_bad: bool = False

    @property
    def code(self) -> int:
        """The command's exit code."""
        return EXIT_BAD if self.bad or self.found_bad else 0


class Failed(Exception):
    """The verb has no answer; the message is one line for standard error.

    Attributes:
        code: The command's exit code.
    """

    def __init__(self, line: str, code: int = EXIT_BAD) -> None:
        super().__init__(line)
        self.code = code
