"""A text between tags that is sent as it comes: an argument that can be nothing but a string."""

import json
from collections.abc import Callable

from backend.output.calls.schema import one_line_less


class TextParts:
    """Follows a text up to its end tag, in text that grows. The work is linear.

    Args:
        begin: Where it begins.
        end: The tag.
        trim: What of it is the value: `one_line_less`, `str.strip` or `str`. What may yet be trimmed is held.

    Attributes:
        ended: The position after the tag, once it is there.
    """

    def __init__(self, begin: int, end: str, trim: Callable[[str], str]) -> None:
        self._at, self._end, self._trim = begin, end, trim
        self._begun = False
        self._searched = begin
        self.ended: int | None = None

    def take(self, body: str) -> str:
        """What is new of the value, as the inside of a JSON string."""
        found = body.find(self._end, self._searched)
        limit = found if found >= 0 else self._before_tag(body)
        self._searched = max(self._searched, limit)
        if not self._begun:
            self._skip_lead(body, limit)
        text = self._without_tail(body[self._at : limit])
        self._at += len(text)
        self._begun = self._begun or bool(text)
        if found >= 0:
            self.ended = found + len(self._end)
        return json.dumps(text, ensure_ascii=False)[1:-1]

    def _before_tag(self, body: str) -> int:
        """Where the text ends that cannot be part of the tag."""
        for length in range(min(len(self._end) - 1, len(body) - self._searched), 0, -1):
            if self._end.startswith(body[-length:]):
                return len(body) - length
        return len(body)

    def _skip_lead(self, body: str, limit: int) -> None:
        if self._trim is str.strip:
            self._at += limit - self._at - len(body[self._at : limit].lstrip())
        elif self._trim is one_line_less and self._at < limit:
            self._at += body[self._at] == "\n"
            self._begun = True

    def _without_tail(self, text: str) -> str:
        if self._trim is str.strip:
            return text.rstrip()
        return text.removesuffix("\n") if self._trim is one_line_less else text
