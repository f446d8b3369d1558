"""Gemma 4: `<|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from backend.core.call_shape import (
    CallSection,
    Either,
    Fixed,
    FreeText,
    JsonValue,
    Member,
    Members,
    NotForceable,
    NotWritable,
    Repeated,
    Shape,
    TextLimits,
)
from backend.output.calls.argument_lists import ArgumentListReader, CallListReader, CallSyntax, Quote
from backend.output.calls.call_format import CallFormat
from backend.output.calls.forcing import argument_shapes
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import read_elements, read_literal, skip_blank
from backend.output.calls.schema import ToolSchemas, read_guess
from backend.output.calls.tags import begun
from backend.output.calls.unions import Union, choices, exactly, text_limits

_FUNCTION = re.compile(r"[\w.-]{1,256}")
_WORD = r"[^\s:,{}\[\]<>\"]+"
_WORDS = rf"{_WORD}(?: +{_WORD})*"
_ARGUMENT = re.compile(rf"(?=.{{1,256}}\Z){_WORDS}", re.DOTALL)
_KEY = re.compile(r"\s*([^\s:,{}\[\]<>]+(?: +[^\s:,{}\[\]<>]+)*)\s*:")
_BARE = re.compile(r"[^,{}\[\]]*")
_OTHER_THAN_TEXT = ["object", "array", "number", "boolean", "null"]
_MAX_DEPTH = 64


class BraceValues:
    """Values in Gemma's notation: JSON, but with bare keys and with strings between `quote` marks.

    A value that is nothing else is text up to the next comma or bracket.
    """

    def __init__(self, quote: str) -> None:
        self._quote = quote

    def read(self, text: str, at: int, *, depth: int = 0) -> tuple[Any, int]:
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
            members, end = read_elements(text, at + 1, "}", partial(self._member, depth=depth + 1))
            return dict(members), end
        if text[at] == "[":
            return read_elements(text, at + 1, "]", partial(self.read, depth=depth + 1))
        if text[at] == '"':
            return read_literal(text, at)
        match = _BARE.match(text, at)
        bare = match[0] if match else ""
        return read_guess(bare.strip()), at + len(bare)

    def _quoted(self, text: str, at: int) -> tuple[str, int]:
        begin = at + len(self._quote)
        end = text.find(self._quote, begin)
        if end < 0:
            raise IndexError("a string without end")
        return text[begin:end], end + len(self._quote)

    def _member(self, text: str, at: int, *, depth: int) -> tuple[tuple[str, Any], int]:
        key, at = self._key(text, at)
        value, at = self.read(text, at, depth=depth)
        return (key, value), at

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


def call_syntax(quote: str) -> CallSyntax:
    """`call:NAME{key:value}` with strings between `quote` marks."""
    values = BraceValues(quote)

    def value(text: str) -> Any:
        # A bracket behind it: a value may be empty.
        found, end = values.read(text + "}", 0)
        if skip_blank(text, end) < len(text):
            raise NotACall("more than a value")
        return found

    mark = f'(?P<quote>{re.escape(quote)}|"|)'
    begun_quote = begun(quote)
    return CallSyntax(
        head=re.compile(r"\s*,?\s*call:(?P<name>[\w.-]+)\s*\{"),
        head_begun=re.compile(r"\s*,?\s*" + begun("call:", r"[\w.-]*\s*")),
        key=re.compile(rf"\s*{mark}(?P<key>{_WORDS})(?P=quote)\s*:"),
        key_begun=re.compile(rf'\s*(?:"|{begun_quote})(?:{_WORDS}(?:"|{begun_quote})\s*)?'),
        close="}",
        brackets="[{",
        quotes=(Quote(quote, quote, escapes=False), Quote('"', '"')),
        value=value,
    )


class BraceFormat(CallFormat):
    """`call:NAME{...}`, one or several between the markers."""

    def __init__(self, name: str, start: str, end: str, quote: str) -> None:
        self.name = name
        self.starts = (start,)
        self.markers = (start, quote, end)
        self.sections = (CallSection(trigger=start, again=""),)
        self._quote = quote
        self._syntax = call_syntax(quote)

    def reader(self, start: str, tools: ToolSchemas) -> CallListReader:
        return CallListReader(lambda at: ArgumentListReader(self._syntax, at), self.markers[-1], bracketed=False)

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        if _FUNCTION.fullmatch(name) is None:
            raise NotForceable("its name cannot be written")
        start, _, end = self.markers
        head, close = Fixed(f"{start}call:{name}{{"), Fixed(f"}}{end}")
        if parameters is None:
            return head, Repeated(self._any_argument(), ","), close
        shapes = argument_shapes(parameters, _ARGUMENT, self._value_shape)
        members = tuple(Member((Fixed(f"{key}:"), *value), required) for key, value, required in shapes)
        return head, Members(members, ","), close

    def _any_argument(self) -> Shape:
        key = FreeText(end=":", limits=(TextLimits(pattern="[A-Za-z0-9_.-]{1,64}"),))
        text = self._value_shape({"type": "string"})
        return key, Either((text, (JsonValue({"type": _OTHER_THAN_TEXT}),)))

    def _value_shape(self, schema: Mapping[str, Any]) -> Shape:
        """Strings between the format's own quotes; all else is JSON, which `BraceValues` reads too."""
        union = Union(schema)
        if union.types != frozenset(["string"]):
            return (JsonValue(schema),)
        options = union.options()
        listed = [choices(option) for option in options]
        texts = [text for values in listed for text in self._writable(values or [])]
        limits = [text_limits(option) for option, values in zip(options, listed, strict=True) if values is None]
        if limits:
            limits += map(exactly, texts)
            return Fixed(self._quote), FreeText(end=self._quote, limits=tuple(limits))
        if not texts:
            raise NotWritable("none of its values can be written")
        return (Either(tuple((Fixed(self._quote + text + self._quote),) for text in texts)),)

    def _writable(self, values: list[Any]) -> list[str]:
        return [value for value in values if isinstance(value, str) and self._quote not in value]


FORMAT = BraceFormat("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>')
