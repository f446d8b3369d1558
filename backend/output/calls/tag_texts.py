"""A text between tags that is sent as it comes: an argument that can be nothing but a string."""

import json
from collections.abc import Callable

from backend.output.calls.schema import one_line_less
from backend.output.calls.value_ends import ValueEnd


class TextParts:
    """Follows a text up to its end, in text that grows. What has been sent is not looked at again.

    Args:
        begin: Where it begins.
        end: Finds its end.
        trim: What of it is the value: `one_line_less`, `str.strip` or `str`. What may yet be trimmed is held.

    Attributes:
        ended: Where reading goes on behind it, once that is known.
    """

    def __init__(self, begin: int, end: ValueEnd, trim: Callable[[str], str]) -> None:
        self._at, self._end, self._trim = begin, end, trim
        self._begun = False
        self.ended: int | None = None

    def take(self, body: str, *, final: bool = False) -> str:
        """What is new of the value, as the inside of a JSON string."""
        self.ended = self._end.find(body, final=final)
        limit = self._end.at
        if not self._begun:
            self._skip_lead(body, limit)
        text = self._without_tail(body[self._at : limit])
        self._at += len(text)
        self._begun = self._begun or bool(text)
        return json.dumps(text, ensure_ascii=False)[1:-1]

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
