"""Calls as programs write them: a name, then named values between brackets. Each value is a part of its own."""

import json
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

from backend.output.calls.call_format import PARSE_ERRORS, BrokenCall, Call, CallPart, CallReader, Read, function_name
from backend.output.calls.json_calls import wait
from backend.output.calls.json_text import NotACall, dump_json
from backend.output.calls.literals import skip_blank

# A call's name, or an argument's, is no longer.
_LONGEST_NAME = 1024
_MAX_DEPTH = 64
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Quote:
    """What a string stands between, and whether a backslash escapes within it."""

    begin: str
    end: str
    escapes: bool = True


@dataclass(frozen=True)
class CallSyntax:
    """How one format writes a call's name and arguments.

    Attributes:
        head: From the call's start to behind its opening bracket; group `name`.
        head_begun: What may become one, as a pattern of all text that is there; so is `key_begun`.
        key: From an argument's start to its value; group `key`.
        close: The bracket that ends the call.
        brackets: Those that open a nested value.
        quotes: Longest first.
        value: What an argument's text means; may raise any of `PARSE_ERRORS`.
    """

    head: re.Pattern[str]
    head_begun: re.Pattern[str]
    key: re.Pattern[str]
    key_begun: re.Pattern[str]
    close: str
    brackets: str
    quotes: tuple[Quote, ...]
    value: Callable[[str], Any]


class ValueExtent:
    """Finds where an argument's value ends, at a comma or at the call's end, in text that grows. The work is linear."""

    def __init__(self, syntax: CallSyntax, at: int) -> None:
        self._syntax = syntax
        self.begin = self._at = at
        self._stack: list[str] = []
        self._quote: Quote | None = None
        self._fresh = True  # a value may begin here: a quote opens a string

    def find_end(self, text: str) -> int | None:
        """The position of what ends the value, or None if it is not there.

        Raises:
            ValueError: A bracket closes that was not open, or they are nested too deep.
        """
        while self._at < len(text):
            if self._quote is not None:
                if not self._read_string(text, self._quote):
                    return None
            elif self._fresh and text[self._at].isspace():
                self._at += 1
            elif self._fresh and (waits := self._open_string(text)) is not None:
                if waits:
                    return None
            elif not self._stack and text[self._at] in ("," + self._syntax.close):
                return self._at
            else:
                self._take(text[self._at])
        return None

    def _open_string(self, text: str) -> bool | None:
        """False where a string has begun, True where one may, None where there is none."""
        for quote in self._syntax.quotes:
            if text.startswith(quote.begin, self._at):
                self._at += len(quote.begin)
                self._quote = quote
                return False
            if quote.begin.startswith(text[self._at :]):
                return True
        return None

    def _read_string(self, text: str, quote: Quote) -> bool:
        end = text.find(quote.end, self._at)
        escape = text.find("\\", self._at, end if end >= 0 else len(text)) if quote.escapes else -1
        if escape >= 0:
            self._at = escape
            if escape + 2 > len(text):
                return False
            self._at += 2
        elif end >= 0:
            self._at = end + len(quote.end)
            self._quote, self._fresh = None, False
        else:
            self._at = max(self._at, len(text) - len(quote.end) + 1)
            return False
        return True

    def _take(self, char: str) -> None:
        """Move over one character outside of strings."""
        if char in self._syntax.brackets:
            if len(self._stack) == _MAX_DEPTH:
                raise ValueError("nested too deep")
            self._stack.append(_CLOSING[char])
        elif any(char == _CLOSING[bracket] for bracket in self._syntax.brackets):
            if not self._stack or self._stack.pop() != char:
                raise ValueError("a bracket that was not open")
        in_object = bool(self._stack) and self._stack[-1] == "}"
        self._fresh = char in self._syntax.brackets or char == "," or (char == ":" and in_object)
        self._at += 1


class ArgumentListReader:
    """Reads one call from its start. Engine thread only.

    Args:
        names: The functions there are, where nothing else marks a call; None takes any.
    """

    def __init__(self, syntax: CallSyntax, at: int = 0, names: Container[str] | None = None) -> None:
        self._syntax, self._names = syntax, names
        self._at = at  # all before has been read
        self._name: str | None = None
        self._key = ""
        self._value: ValueExtent | None = None
        self._members = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._name is None and not self._read_head(body):
            return wait(final=final)
        name = self._name or ""
        begin = skip_blank(body, self._at)
        if self._value is None and body.startswith(self._syntax.close, begin):
            return self._close(name, begin + len(self._syntax.close))
        if self._value is None and not self._open(body):
            return wait(final=final)
        members = self._read_value(self._value, body) if self._value else None
        return wait(final=final) if members is None else Read(0, part=CallPart(name, members), open=True)

    def _read_head(self, body: str) -> bool:
        match = self._match(self._syntax.head, self._syntax.head_begun, body)
        if match is None:
            return False
        if self._names is not None and match["name"] not in self._names:
            raise NotACall("no such function")
        self._name, self._at = function_name(match["name"]), match.end()
        return True

    def _open(self, body: str) -> bool:
        match = self._match(self._syntax.key, self._syntax.key_begun, body)
        if match is not None:
            self._key, self._value = match["key"], ValueExtent(self._syntax, match.end())
        return match is not None

    def _match(self, whole: re.Pattern[str], begun: re.Pattern[str], body: str) -> re.Match[str] | None:
        match = whole.match(body, self._at, self._at + _LONGEST_NAME)
        if match is None and not (len(body) - self._at < _LONGEST_NAME and begun.fullmatch(body, self._at)):
            raise self._refusal("no name")
        return match

    def _refusal(self, reason: str) -> NotACall:
        return BrokenCall(self._at) if self._members else NotACall(reason)

    def _read_value(self, value: ValueExtent, body: str) -> str | None:
        """An argument as text of the call's JSON; None if more text is needed."""
        try:
            end = value.find_end(body)
            if end is None:
                return None
            text = dump_json(self._syntax.value(body[value.begin : end]))
        except PARSE_ERRORS as error:
            raise self._refusal("no value") from error
        self._at, self._value = end + (body[end] == ","), None
        lead = ", " if self._members else "{"
        self._members += 1
        return f"{lead}{json.dumps(self._key, ensure_ascii=False)}: {text}"

    def _close(self, name: str, end: int) -> Read:
        if not self._members:
            return Read(end, (Call(name, "{}"),))
        return Read(end, part=CallPart(name, "}", last=True))


class CallListReader:
    """Calls one after the other, then an end marker, which may be missing. Engine thread only.

    Args:
        item: A reader of one call, which begins at a position of the text.
        end: The end marker; empty if there is none.
        bracketed: They stand between `[` and `]`, with commas.
    """

    def __init__(self, item: Callable[[int], CallReader], end: str, *, bracketed: bool) -> None:
        self._new_item, self._end = item, end
        self._item: CallReader | None = None
        self._listed = self._bracketed = bracketed
        self._calls = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._item is None:
            at = self._next(body, final=final) if self._calls else self._first(body, final=final)
            if not isinstance(at, int):
                return at
            self._item = self._new_item(at)
        read = self._item.read(body, final=final)
        if read is None or not read.end:
            return read
        self._item = None
        self._calls += 1
        return replace(read, open=True)

    def _first(self, body: str, *, final: bool) -> int | None:
        at = skip_blank(body, 0)
        if at == len(body):
            return wait(final=final)
        if not self._listed:
            return at
        if body[at] != "[":
            raise NotACall("no list")
        return at + 1

    def _next(self, body: str, *, final: bool) -> Read | int | None:
        """After a call: where the next one begins, or the end."""
        at = skip_blank(body, 0)
        if self._listed and at < len(body):
            if body[at] == "]":
                self._listed = False
                return Read(at + 1, open=True)
            if body[at] != ",":
                raise NotACall("no comma between calls")
            return at + 1
        if self._end and body.startswith(self._end, at):
            return Read(at + len(self._end))
        if self._listed or (self._end and self._end.startswith(body[at:])):
            return Read(len(body)) if final else None
        return Read(0) if self._bracketed or not self._end else at
