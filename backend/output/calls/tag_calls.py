"""Calls whose arguments stand between tags that name them: one reader, which each such format gives its tags."""

import json
import re

from backend.output.calls.call_format import BrokenCall, Call, CallPart, Read, function_name
from backend.output.calls.json_calls import wait
from backend.output.calls.json_extent import JsonExtent
from backend.output.calls.json_text import NotACall, dump_json, load_json
from backend.output.calls.literals import skip_blank
from backend.output.calls.schema import ToolSchemas, typed
from backend.output.calls.tag_texts import TextParts
from backend.output.calls.tags import Tags
from backend.output.calls.value_ends import LONGEST_TAG, ValueEnd

_TEXT = frozenset(["string"])


class TagReader:
    """Reads one call from behind its start. Each argument is a part of its own, or several. Engine thread only."""

    def __init__(self, tags: Tags, tools: ToolSchemas, at: int = 0) -> None:
        self._tags, self._tools = tags, tools
        self._at = at  # all before has been read
        self._name: str | None = None
        self._value: _Value | None = None
        self._keys: set[str] = set()
        self._members = 0
        self._supposed = False

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._name is None and not self._read_head(body):
            return wait(final=final)
        while True:
            if self._value is not None:
                members = self._read_value(self._value, body, final=final)
                if members:
                    return Read(0, part=CallPart(self._name or "", members), open=True)
                if members is None:
                    return wait(final=final)
            begin = skip_blank(body, self._at)
            if closed := self._tags.closed.match(body, begin, begin + LONGEST_TAG):
                return self._close(closed.end())
            if not self._open(body):
                return wait(final=final)

    def _read_head(self, body: str) -> bool:
        begin = skip_blank(body, self._at)
        match = self._tags.head.match(body, begin, begin + LONGEST_TAG)
        if match is None:
            self._check_begun(body, begin, self._tags.head_begun)
            return False
        self._name, self._at = function_name(self._tags.unescape(match["name"])), match.end()
        return True

    def _open(self, body: str) -> bool:
        """Find the next argument; False if more text is needed."""
        begin = skip_blank(body, self._at)
        for pattern in (self._tags.opening, self._tags.json_opening):
            if pattern and (match := pattern.match(body, begin, begin + LONGEST_TAG)):
                self._value = _Value(self._tags, self._tools, self._name or "", match, self._missing(match))
                return True
        self._check_begun(body, begin, self._tags.opening_begun, self._tags.close_begun)
        return False

    def _missing(self, opening: re.Match[str]) -> frozenset[str]:
        """The arguments that the function has and the call does not have yet."""
        if self._tags.left_out is None:
            return frozenset()
        self._keys.add(opening["key"])
        return self._tools.declared(self._name or "") - self._keys

    def _check_begun(self, body: str, begin: int, *patterns: re.Pattern[str]) -> None:
        short = len(body) - begin < LONGEST_TAG
        if not short or not any(pattern.fullmatch(body, begin) for pattern in patterns):
            raise BrokenCall(self._at) if self._members else NotACall("no tag of a call")

    def _read_value(self, value: "_Value", body: str, *, final: bool) -> str | None:
        """An argument as text of the call's JSON, empty if it adds nothing; None if more text is needed."""
        try:
            found = value.read(body, final=final)
        except NotACall as error:
            raise BrokenCall(self._at) if self._members else error from error
        if found is None:
            return None
        members, end = found
        lead = "" if not members or value.begun else ", " if self._members else "{"
        self._members += bool(lead)
        value.begun = True
        if end is not None:
            self._at, self._value, self._supposed = end, None, self._supposed or value.supposed
        return lead + members or (None if end is None else "")

    def _close(self, end: int) -> Read:
        name = self._name or ""
        if not self._members:
            return Read(end, (Call(name, "{}"),))
        return Read(end, part=CallPart(name, "}", last=True), supposed=self._supposed)


class _Value:
    """One argument, from behind its opening; `following` are those that may come after it.

    Attributes:
        begun: Some of it has been read as members of the call's JSON.
    """

    def __init__(
        self, tags: Tags, tools: ToolSchemas, function: str, opening: re.Match[str], following: frozenset[str]
    ) -> None:
        self._tags = tags
        self._begin = self._searched = opening.end()
        groups = opening.groupdict()
        self._key = tags.unescape(groups["key"]) if groups.get("key") is not None else None
        declared, string = groups.get("type"), groups.get("string")
        declared = "string" if string == "true" else declared
        self._types = frozenset([declared]) if declared else tools.types(function, self._key or "")
        if string == "false":
            self._types -= {"string"}
        self._guess = tags.guess or string == "false"
        self._end = tags.value_end if self._key is not None else tags.json_end
        self._extent = JsonExtent(self._begin) if self._key is None or self._structured else None
        only_text = self._types == _TEXT and tags.quoted is None and self._key is not None
        self._text_ends = ValueEnd(self._end, self._begin, tags.left_out, following)
        self._text = TextParts(self._begin, self._text_ends, tags.trim) if only_text else None
        self.begun = False

    @property
    def supposed(self) -> bool:
        """That the model's turn ends is all that shows the value's end."""
        return self._text_ends.supposed

    @property
    def _structured(self) -> bool:
        """Whether it can only be an object or an array, in whose strings an end marker is text."""
        return "string" not in self._types and not self._types.isdisjoint(("object", "array"))

    def read(self, body: str, *, final: bool) -> tuple[str, int | None] | None:
        """Its members as JSON text, and where it ends: a text that can be nothing else is given as it comes."""
        if self._text is not None:
            return self._read_text(self._text, body, final=final)
        found = self._extent_end(body, final=final) if self._extent else self._text_end(body, final=final)
        if found is None:
            return None
        text, end = found
        if self._key is None:
            arguments = load_json(text)
            if not isinstance(arguments, dict):
                raise NotACall("arguments are no object")
            return dump_json(arguments)[1:-1], end
        return f"{json.dumps(self._key, ensure_ascii=False)}: {self._json(text)}", end

    def _read_text(self, parts: TextParts, body: str, *, final: bool) -> tuple[str, int | None] | None:
        text = parts.take(body, final=final)
        if not text and parts.ended is None:
            return None
        lead = "" if self.begun else f'{json.dumps(self._key, ensure_ascii=False)}: "'
        return lead + text + ('"' if parts.ended is not None else ""), parts.ended

    def _json(self, text: str) -> str:
        try:
            return dump_json(typed(text, self._types, guess=self._guess))
        except NotACall:
            return dump_json(text)

    def _extent_end(self, body: str, *, final: bool) -> tuple[str, int] | None:
        assert self._extent is not None
        try:
            end = self._extent.find_end(body)
        except ValueError:
            return self._read_as_text(body, final=final)
        if end is None:
            return None
        after = skip_blank(body, end)
        if body.startswith(self._end, after):
            return body[self._begin : end], after + len(self._end)
        if self._end.startswith(body[after:]):
            return None
        return self._read_as_text(body, final=final)

    def _read_as_text(self, body: str, *, final: bool) -> tuple[str, int] | None:
        """It is no JSON up to the end tag: it ends as a text does."""
        self._extent = None
        return self._text_end(body, final=final)

    def _text_end(self, body: str, *, final: bool) -> tuple[str, int] | None:
        quoted, begin = self._tags.quoted, skip_blank(body, self._begin)
        if quoted is not None and body.startswith(quoted[0], begin):
            return self._quoted_end(body, begin, quoted)
        if quoted is not None and quoted[0].startswith(body[begin:]):
            return None
        after = self._text_ends.find(body, final=final)
        return None if after is None else (self._tags.trim(body[self._begin : self._text_ends.at]), after)

    def _quoted_end(self, body: str, begin: int, quoted: tuple[str, str]) -> tuple[str, int] | None:
        start = begin + len(quoted[0])
        at = body.find(quoted[1], max(start, self._searched))
        while at >= 0:
            after = skip_blank(body, at + len(quoted[1]))
            if body.startswith(self._end, after):
                return body[start:at], after + len(self._end)
            if self._end.startswith(body[after:]):
                self._searched = at
                return None
            at = body.find(quoted[1], at + 1)
        self._searched = max(start, len(body) - len(quoted[1]) + 1)
        return None
