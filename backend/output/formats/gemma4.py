"""Gemma 4: `<|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`."""

import re
from typing import Any

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import after_comma, read_literal, skip_blank
from backend.output.calls.readers import DelimitedReader, begins
from backend.output.calls.schema import ToolSchemas, read_guess

_CALL = re.compile(r"\s*,?\s*call:([\w.-]+)\s*(?=\{)")
_KEY = re.compile(r"\s*([^\s:,{}\[\]<>]+)\s*:")
_BARE = re.compile(r"[^,{}\[\]]*")
_MAX_DEPTH = 64


class BraceValues:
    """Values in Gemma's notation: JSON, but with bare keys and with strings between `quote` marks.

    A value that is nothing else is text up to the next comma or bracket.
    """

    def __init__(self, quote: str) -> None:
        self._quote = quote

    def read(self, text: str, at: int, depth: int = 0) -> tuple[Any, int]:
        """The value at `at`, and where it ends.

        Raises:
            ValueError, IndexError: There is none, or it is nested deeper than 64.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        at = skip_blank(text, at)
        if text.startswith(self._quote, at):
            return self._quoted(text, at)
        if text[at] == "{":
            return self._object(text, at + 1, depth)
        if text[at] == "[":
            return self._array(text, at + 1, depth)
        if text[at] == '"':
            return read_literal(text, at)
        match = _BARE.match(text, at)
        bare = match[0] if match else ""
        return read_guess(bare.strip()), at + len(bare)

    def _quoted(self, text: str, at: int) -> tuple[str, int]:
        begin = at + len(self._quote)
        end = text.index(self._quote, begin)
        return text[begin:end], end + len(self._quote)

    def _object(self, text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        at = skip_blank(text, at)
        while text[at] != "}":
            key, at = self._key(text, at)
            values[key], at = self.read(text, at, depth + 1)
            at = after_comma(text, at, "}")
        return values, at + 1

    def _key(self, text: str, at: int) -> tuple[str, int]:
        if text.startswith((self._quote, '"'), at):
            key, at = self._quoted(text, at) if text.startswith(self._quote, at) else read_literal(text, at)
            at = skip_blank(text, at)
            if text[at] != ":":
                raise ValueError("no colon")
            return key, at + 1
        match = _KEY.match(text, at)
        if match is None:
            raise ValueError("no key")
        return match[1], match.end()

    def _array(self, text: str, at: int, depth: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        at = skip_blank(text, at)
        while text[at] != "]":
            value, at = self.read(text, at, depth + 1)
            values.append(value)
            at = after_comma(text, at, "]")
        return values, at + 1


class BraceFormat(CallFormat):
    """`call:NAME{...}`, one or several between the markers."""

    def __init__(self, name: str, start: str, end: str, quote: str) -> None:
        self.name = name
        self.starts = (start,)
        self.markers = (start, quote, end)
        self._quote = quote
        self._values = BraceValues(quote)

    def reader(self, start: str, tools: ToolSchemas) -> DelimitedReader:
        return DelimitedReader(
            self.markers[-1],
            self._parse,
            opens=lambda body: begins(body, ("call:",), skip_blank(body, 0)),
            # An odd quote is open: the end marker is inside a string.
            closes=lambda body: body.count(self._quote) % 2 == 0,
        )

    def _parse(self, body: str) -> tuple[Call, ...]:
        calls: list[Call] = []
        at = 0
        while match := _CALL.match(body, at):
            arguments, at = self._values.read(body, match.end())
            calls.append(Call.of(match[1], arguments))
        if not calls or skip_blank(body, at) != len(body):
            raise NotACall("no call")
        return tuple(calls)


FORMAT = BraceFormat("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>')
