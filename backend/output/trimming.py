"""The trimming of white space around markers that does not belong to the answer."""

BLANK = " \t\r\n"


class Trimmer:
    """One channel (content or reasoning) of one answer.

    White space is kept inside a channel, and dropped at an end of the channel that a marker made: after
    `</think>`, before or after a tool call. An answer without markers passes unchanged. White space is
    therefore held until something follows it.

    Attributes:
        started: Something other than white space has been sent.
    """

    def __init__(self, *, after_marker: bool = False) -> None:
        self.started = False
        self._before = ""  # white space in front of the markers here
        self._blank = ""
        self._at_marker = after_marker
        self._apart = False  # the white space behind the markers does not count

    def push(self, text: str) -> str:
        """Take new text of this channel; return what may be sent."""
        body = text.lstrip(BLANK)
        if not body:
            self._blank += text
            return ""
        lead = self._blank + text[: len(text) - len(body)]
        if self._at_marker:
            lead = self._before + ("" if self._apart else lead) if self.started else ""
        kept = body.rstrip(BLANK)
        self._before, self._blank = "", body[len(kept) :]
        self.started, self._at_marker, self._apart = True, False, False
        return lead + kept

    def mark(self) -> None:
        """A marker stands here. Of several in a row, the white space before the first and after the last counts."""
        if not self._at_marker:
            self._before = self._blank
        self._blank, self._at_marker = "", True

    def separate(self, blank: str) -> None:
        """Another message of the same channel begins: keep its text apart from the last one's, by `blank` alone."""
        self.mark()
        self._before, self._apart = blank, True

    def finish(self) -> str:
        """What is held, unless a marker made this end."""
        blank, self._blank = self._blank, ""
        return "" if self._at_marker else blank
