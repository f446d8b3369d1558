"""Where an argument between tags ends: at its end tag, or where a model has left that out."""

import re
from collections.abc import Container
from dataclasses import dataclass

# A tag is no longer; what may become a tag is decided by then.
LONGEST_TAG = 1024


@dataclass(frozen=True)
class LeftOut:
    """What shows that an end tag was left out. All of it is markup that a value may speak of, so it must fit.

    Attributes:
        opening: The next argument's opening, group `key`; it must be one that the function has and the call has not.
        closing: The ends of the call and of its section; another call must follow, or the end of the model's turn.
        opening_begun, closing_begun: What may become one, as a pattern of all text that is there.
        starts: Texts that open a call. A value that has one speaks of calls: only its end tag ends it.
        own_line: Both stand behind a line break, as the format writes it.
        sought: Where any of this or the value's end tag begins, or may begin in the last characters.
    """

    opening: re.Pattern[str]
    opening_begun: re.Pattern[str]
    closing: re.Pattern[str]
    closing_begun: re.Pattern[str]
    starts: tuple[str, ...]
    own_line: bool
    sought: re.Pattern[str]


class ValueEnd:
    """Follows one value up to its end, in text that grows.

    Of each character one search decides whether a tag begins there; what begins one is read up to `LONGEST_TAG` again.

    Args:
        tag: Its end tag.
        begin: Where it begins.
        left_out: How it may end without; None if it may not.
        keys: The arguments that may follow it.

    Attributes:
        at: Text before it is the value's; the value ends there once `after` is known.
        after: Where reading goes on behind the value.
        supposed: That the model's turn ends is all that shows the value's end.
    """

    def __init__(self, tag: str, begin: int, left_out: LeftOut | None = None, keys: Container[str] = ()) -> None:
        self._tag, self._left_out, self._keys = tag, left_out, keys
        self.at = begin
        self.after: int | None = None
        self.supposed = False

    def find(self, body: str, *, final: bool) -> int | None:
        """Read on; where reading goes on behind the value, or None if its end is not there."""
        at = self.at
        while self.after is None and (left_out := self._left_out) is not None:
            match = left_out.sought.search(body, at)
            at = match.start() if match else len(body)
            if match is None or body.startswith(self._tag, at):
                break
            ends = _begins(body, at, self._tag) or self._ends_without(left_out, body, at, final=final)
            if ends is not None:
                self.at, self.after = at, at if ends == "here" else None
                return self.after
            at += 1
        return self.after or self._find_tag(body, at)

    def _find_tag(self, body: str, at: int) -> int | None:
        found = body.find(self._tag, at)
        if found >= 0:
            self.at, self.after = found, found + len(self._tag)
            return self.after
        last = max(at, len(body) - len(self._tag) + 1)
        self.at = next((begin for begin in range(last, len(body)) if _begins(body, begin, self._tag)), len(body))
        return None

    def _ends_without(self, left_out: LeftOut, body: str, at: int, *, final: bool) -> str | None:
        """`here` or `may`; None if the value goes on."""
        if body.startswith(left_out.starts, at):
            self._left_out = None
            return None
        if begins := next((found for start in left_out.starts if (found := _begins(body, at, start))), None):
            return begins
        if left_out.own_line and body[at - 1] != "\n":
            return None
        if opening := left_out.opening.match(body, at, at + LONGEST_TAG):
            return "here" if opening["key"] in self._keys else None
        if closing := left_out.closing.match(body, at, at + LONGEST_TAG):
            return self._ends_call(body[closing.end() : closing.end() + LONGEST_TAG], left_out.starts, final=final)
        begun = left_out.opening_begun, left_out.closing_begun
        short = len(body) - at < LONGEST_TAG
        return "may" if short and any(pattern.fullmatch(body, at) for pattern in begun) else None

    def _ends_call(self, rest: str, starts: tuple[str, ...], *, final: bool) -> str | None:
        """The same, with what follows a call's end."""
        if not rest and final:
            self.supposed = True
            return "here"
        if rest.startswith(starts):
            return "here"
        return "may" if any(start.startswith(rest) for start in starts) else None


def _begins(body: str, at: int, literal: str) -> str | None:
    """`may` if the text ends in a beginning of the literal."""
    return "may" if len(body) - at < len(literal) and literal.startswith(body[at:]) else None
