"""Where the text of an answer goes: content and reasoning, each trimmed, and what of it has gone out as a call."""

from backend.output.sections import Section
from backend.output.trimming import BLANK, Trimmer


class Channels:
    """Content and reasoning of one answer. Engine thread only.

    Attributes:
        section: Where text goes now.
        hidden: How many of the next characters are not shown: they were sent as parts of a call that broke off.
    """

    def __init__(self, section: Section) -> None:
        self.section: Section = section
        self.hidden = 0
        self._trimmers: dict[Section, Trimmer] = {"content": Trimmer(), "reasoning": Trimmer(after_marker=True)}
        self._spoken: set[Section] = set()  # by text that was hidden
        self._out: dict[Section, str] = {"content": "", "reasoning": ""}

    def push(self, text: str) -> str:
        """Text of this section where none is hidden: what of it may be sent at once."""
        return self._trimmers[self.section].push(text)

    def show(self, text: str) -> None:
        """Text of this section."""
        if self.hidden:
            hidden = text[: self.hidden]
            self.hidden -= len(hidden)
            if hidden.strip(BLANK):
                self._spoken.add(self.section)
            text = text[len(hidden) :]
        self._out[self.section] += self.push(text)

    def pass_over(self, length: int) -> None:
        """So many characters have been read that are no text."""
        self.hidden = max(0, self.hidden - length)

    def started(self, section: Section) -> bool:
        """Whether something has been said there, shown or hidden."""
        return section in self._spoken or self._trimmers[section].started

    def mark(self, section: Section = "content") -> None:
        """A marker stands here."""
        self._trimmers[section].mark()

    def switch(self, section: Section) -> None:
        """Text goes there from now on."""
        self.mark()
        self.section = section

    def message(self, section: Section) -> None:
        """Another message begins, in this section: its text stands apart from the last one's."""
        self.switch(section)
        self._trimmers[section].separate("\n\n")

    def finish(self) -> None:
        """The answer has ended."""
        # Reasoning never ends in white space: what follows it is an end marker or nothing.
        self._out["content"] += self._trimmers["content"].finish()

    def take(self) -> tuple[str, str]:
        """Content and reasoning since the last call."""
        content, reasoning = self._out["content"], self._out["reasoning"]
        self._out["content"] = self._out["reasoning"] = ""
        return content, reasoning
