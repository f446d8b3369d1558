"""An answer on the screen, piece by piece, and the line that comes after it."""

from typing import Literal

from backend.chat.turn import Answer
from backend.client.answers import End, Part, Stopwatch
from backend.terminal.screen import Screen
from backend.terminal.showing import count

_Section = Literal["", "reasoning", "content", "call"]


class AnswerView:
    """Shows one answer: reasoning dimmed, or elsewhere than the answer; each tool call on lines of its own."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._section: _Section = ""
        self._call = -1

    def show(self, part: Part) -> None:
        """What a reply brings."""
        if part.reasoning:
            self._enter("reasoning")
            self._screen.aside(part.reasoning, "dim italic")
        if part.content:
            self._enter("content")
            self._screen.write(part.content)
        for piece in part.calls:
            self._enter("call", piece.index)
            if piece.name:
                self._screen.write(f"{piece.name}(", "cyan")
            self._screen.write(piece.arguments, "cyan")

    def end(self) -> None:
        """The answer is over."""
        self._enter("")

    def _enter(self, section: _Section, call: int = -1) -> None:
        """What comes now begins a line of its own, unless it goes on with what was before it."""
        if (section, call) == (self._section, self._call):
            return
        match self._section:
            case "call":
                self._screen.write(")\n", "cyan")
            case "reasoning":
                self._screen.aside("\n")
            case "content":
                self._screen.write("\n")
            case "":
                pass
        self._section, self._call = section, call


def summary(watch: Stopwatch, answer: Answer, end: End, *, stopped: bool) -> str:
    """What an answer took: `0.12 s to the first token, 45 tokens/s, 34 tokens, 120 of 140 prompt tokens cached`."""
    parts: list[str] = []
    prompt_tokens = answer.prompt_tokens
    if watch.first_seconds is not None:
        parts.append(f"{watch.first_seconds:.2f} s to the first token")
    if answer.decode_s:
        # By the worker's clock: a short answer comes in one go.
        parts.append(f"{watch.tokens / answer.decode_s:.1f} tokens/s")
    parts.append(f"{count(watch.tokens)} tokens")
    if end.cached_tokens is not None:
        parts.append(f"{count(end.cached_tokens)} of {count(prompt_tokens)} prompt tokens from the cache")
    elif prompt_tokens:
        parts.append(f"{count(prompt_tokens)} prompt tokens")
    if end.drafted_tokens:
        parts.append(f"{count(end.accepted_tokens)} of {count(end.drafted_tokens)} guessed tokens right")
    if stopped:
        parts.append("stopped")
    elif end.reason == "length":
        parts.append("cut at its limit")
    return f"[{', '.join(parts)}]"
