"""An answer's text, as it arrives, into content, reasoning and tool calls."""

from typing import Literal, Protocol

from backend.core.events import Piece

Section = Literal["content", "reasoning"]

NOTHING = Piece()


class SectionParser(Protocol):
    """Parses one answer. Engine thread only; never raises. However the text is cut, the pieces add up to the same."""

    def feed(self, text: str) -> Piece:
        """Take new text; return what is certain by now."""
        ...

    def finish(self, *, cut: bool = False) -> Piece:
        """The answer has ended: everything still held.

        Args:
            cut: By a limit or a stop string, and not by the model: half a call is none of it.
        """
        ...

    @property
    def has_tool_calls(self) -> bool:
        """Whether a whole call has been sent."""
        ...

    @property
    def called(self) -> bool:
        """The one call that may come has been sent: the answer ends here, what follows is dropped."""
        ...


class PlainParser:
    """Everything is content, unchanged."""

    has_tool_calls = False
    called = False

    def feed(self, text: str) -> Piece:
        return Piece(content=text) if text else NOTHING

    def finish(self, *, cut: bool = False) -> Piece:
        return NOTHING
