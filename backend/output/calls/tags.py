"""How a format writes a call whose arguments stand between tags."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from backend.output.calls.schema import one_line_less
from backend.output.calls.value_ends import LeftOut


@dataclass(frozen=True)
class Tags:
    """How one format writes a call, and how that is read.

    Attributes:
        head: From behind the call's start to its first argument; group `name`.
        opening: Opens an argument; groups `key` and, where the text says it, `type`, or `string`: `true` for a text and
            `false` for JSON. Both patterns begin with white space and must match within a thousand characters.
        head_begun, opening_begun: What may become one, as a pattern of all text that is there. See `begun`.
        value_end: Ends an argument.
        close: Texts that end the call, white space between them.
        starts, section_end: What opens a call, and what ends its section if `close` does not, in formats whose models
            leave `value_end` out now and then.
        trim: What of an argument's text is its value.
        unescape: A name as it is meant.
        guess: A value without a type is JSON or a Python literal if it can be.
        quoted: A value may stand between two texts, within which `value_end` is text.
        json_opening: Opens all arguments as one JSON object; `json_end` follows it.
        write_head, write_opening: The call's beginning, for `{name}`, and an argument's, for `{key}`.
        write_text, write_json: Behind the opening of a text and of anything else, where `string` tells them apart.
        write_tail: Between a value and `value_end`.
        write_after: Behind an argument.
        write_close: The call's end, and its section's.
        writable, writable_key: Names that can be written, of functions and of arguments.
    """

    head: re.Pattern[str]
    head_begun: re.Pattern[str]
    opening: re.Pattern[str]
    opening_begun: re.Pattern[str]
    value_end: str
    close: tuple[str, ...]
    starts: tuple[str, ...] = ()
    section_end: str = ""
    write_head: str = ""
    write_opening: str = ""
    write_close: str = ""
    write_text: str = ""
    write_json: str = ""
    write_tail: str = ""
    write_after: str = ""
    writable: re.Pattern[str] = field(default=re.compile(r"[^\s<>\"'{}]{1,256}"))
    writable_key: re.Pattern[str] = field(
        default=re.compile(r"(?=.{1,256}\Z)[^\s<>\"'{}]+(?: +[^\s<>\"'{}]+)*", re.DOTALL)
    )
    trim: Callable[[str], str] = one_line_less
    unescape: Callable[[str], str] = str
    guess: bool = False
    quoted: tuple[str, str] | None = None
    json_opening: re.Pattern[str] | None = None
    json_end: str = ""

    @cached_property
    def left_out(self) -> LeftOut | None:
        """What shows that `value_end` was left out; None where it never is."""
        if not self.starts:
            return None
        ends = [*self.close, *([self.section_end] if self.section_end else [])]
        closing = re.compile(r"\s*".join(map(re.escape, ends)) + r"\s*")
        closing_begun = re.compile(_chain(ends))
        own_line = self.write_tail == "\n"
        opens = self.write_opening.partition("{key}")[0]
        sought = _beginnings([self.value_end, *self.starts, opens, ends[0]])
        return LeftOut(self.opening, self.opening_begun, closing, closing_begun, self.starts, own_line, sought)

    @cached_property
    def close_begun(self) -> re.Pattern[str]:
        """What may become `close`."""
        return re.compile(r"\s*" + _chain([*self.close]))

    @cached_property
    def closed(self) -> re.Pattern[str]:
        """`close` itself."""
        return re.compile(r"\s*" + r"\s*".join(map(re.escape, self.close)))


def begun(literal: str, rest: str = "") -> str:
    """A pattern of all beginnings of a text that goes on with `rest`, a pattern of any beginning."""
    pattern = rest
    for char in reversed(literal):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    return pattern


def _chain(literals: list[str]) -> str:
    if not literals:
        return ""
    return begun(literals[0], r"\s*" + _chain(literals[1:]))


def _beginnings(literals: list[str]) -> re.Pattern[str]:
    """Where one of the texts begins, or may begin in the last characters."""
    whole = [re.escape(literal) for literal in literals]
    return re.compile("|".join([*whole, *(rf"{re.escape(each[0])}{begun(each[1:])}\Z" for each in literals)]))
