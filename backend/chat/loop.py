"""Line after line: a question, a tool's result, or a command."""

from typing import Final

from backend.chat.commands import Commands, Leave
from backend.chat.conversation import Message
from backend.chat.lines import Lines
from backend.chat.talking import Talk
from backend.client.reached import Reached
from backend.terminal.screen import Screen

EXIT_UNANSWERED: Final = 1


class Loop:
    """The chat's main loop. Main thread."""

    def __init__(self, talk: Talk, worker: Reached, screen: Screen, lines: Lines, *, typed: bool) -> None:
        self._talk, self._worker, self._screen, self._lines = talk, worker, screen, lines
        self._typed = typed
        self._commands = Commands(talk, worker, screen)
        self._answered = True
        # Whether the person would rather ask something than say what a tool returns.
        self._passed_over = False

    def run(self) -> int:
        """Until the person leaves, or the lines end; the exit code.

        Raises:
            KeyboardInterrupt: Where a program writes the lines: one is the end, of an answer too.
            WorkerGone: There is nobody to talk to any more.
        """
        interrupted = False
        while True:
            try:
                text = self._lines.next(self._prompt())
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self._typed:
                    raise
                if interrupted:
                    break
                self._screen.say("\nCtrl-C once more, or Ctrl-D, leaves.")
                interrupted = True
                continue
            try:
                self._take(text)
            except Leave:
                return 0
            except KeyboardInterrupt:  # between two answers' own handling of it
                if not self._typed:
                    raise
            interrupted = False
        if self._typed:
            self._screen.say("")
            return 0
        return 0 if self._answered else EXIT_UNANSWERED

    def _prompt(self) -> str:
        call = self._next_call()
        return f"{call['function']['name']} returns> " if call is not None else "> "

    def _next_call(self) -> Message | None:
        calls = [] if self._passed_over else self._talk.conversation.open_calls
        return calls[0] if calls else None

    def _take(self, text: str) -> None:
        call = self._next_call()
        if text.startswith("/") and not text.startswith("//"):
            self._commands.run(text)
        elif call is not None and text:
            result = {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": text}
            self._talk.conversation.messages.append(result)
            if self._next_call() is None:
                self._ask()
        elif call is not None:
            self._passed_over = True
        elif text:
            question = text.removeprefix("/") if text.startswith("//") else text
            self._talk.conversation.messages.append({"role": "user", "content": question})
            self._ask()

    def _ask(self) -> None:
        self._passed_over = False
        self._answered = self._talk.ask(self._worker)
