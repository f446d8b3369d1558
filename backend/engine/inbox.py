"""The way into the engine thread: commands, in order, until it closes."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backend.core.constraint import Constraint
from backend.core.request import GenerationRequest
from backend.engine.channel import AnswerStream
from backend.engine.work import Work
from backend.prompt.preparer import EncodedPrompt

if TYPE_CHECKING:
    from backend.output import OutputStream


@dataclass(slots=True, kw_only=True)
class Submit:
    """An accepted request with everything the engine needs to run it.

    Attributes:
        generation: The load it was prepared for; the engine ends it ABORTED under any other.
        accepted_at: Monotonic seconds.
        work: What is computed in place of an answer.
    """

    request: GenerationRequest
    prompt: EncodedPrompt
    max_tokens: int
    output: "OutputStream"
    bytes_of: Callable[[int], bytes]
    constraint: Constraint | None
    stream: AnswerStream
    generation: int
    accepted_at: float
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The reader is gone; its row must not take part in another step."""

    stream: AnswerStream


@dataclass(frozen=True, slots=True)
class Call:
    """Work for the engine thread between two steps; `done(result, error)` is called there."""

    work: Callable[[], Any]
    done: Callable[[Any, Exception | None], None]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread: what still runs ends UNAVAILABLE."""


Command = Submit | Cancel | Call | Stop


@dataclass(slots=True)
class Inbox:
    """Any thread puts, the engine thread takes. Closed before it is drained, so nothing is left behind."""

    _commands: deque[Command] = field(default_factory=deque[Command])
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def put(self, command: Command) -> bool:
        """Queue a command; False if the engine takes no more."""
        with self._changed:
            if self._closed:
                return False
            self._commands.append(command)
            self._changed.notify()
            return True

    def take(self, timeout: float | None) -> list[Command]:
        """All queued commands; waits up to `timeout` seconds (None: for ever) for the first."""
        with self._changed:
            if not self._commands and timeout != 0:
                self._changed.wait(timeout)
            commands = list(self._commands)
            self._commands.clear()
            return commands

    def close(self) -> list[Command]:
        """Refuse further commands and return those never taken."""
        with self._changed:
            self._closed = True
            commands = list(self._commands)
            self._commands.clear()
            return commands
