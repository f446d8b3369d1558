"""JSON that arrives in pieces: where a value ends, whether it can still become one, and its text made valid."""

import json
import re

from backend.output.calls.json_text import load_json

_STRING_STOP = re.compile(r'["\\]')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_ESCAPE_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_LOW_HALF = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_LOW_HALF_BEGUN = re.compile(r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?")
_SCALAR_CHARS = re.compile(r"[-+.\w]*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_SCALAR_LIMIT = 4096
_BLANK = " \t\r\n"
_NO_SCALAR = _BLANK + '{["]'
_DEPTH_LIMIT = 512


class JsonExtent:
    """Follows one JSON value through text that grows. Line breaks inside strings are allowed.

    The work is linear in the text, however it is cut. `take` gives the value in the form of `dump_json`, as far as
    it has been read: whatever the pieces, they add up to the same.

    Args:
        scalars: The value may be a string, number or word; else it is an object or an array.

    Attributes:
        certain: An object's first key and its colon have been read, or all of the value.
    """

    def __init__(self, at: int = 0, *, scalars: bool = False) -> None:
        self._at = at
        self._stack: list[str] = []
        self._in_string = False
        self._expect = "value" if scalars else "open"
        self._written: list[str] = []
        self.certain = False

    @property
    def at(self) -> int:
        """How far it has been read; where it broke, if `find_end` raised."""
        return self._at

    def take(self) -> str:
        """What of the value has been read since the last call, as valid JSON text."""
        written, self._written = "".join(self._written), []
        return written

    def find_end(self, text: str) -> int | None:
        """The position after the value in `text`, or None if it is not complete. Earlier text must not change.

        Raises:
            ValueError: No JSON goes on so; it raises again when called again.
        """
        while self._at < len(text) and self._expect != "nothing":
            if self._in_string:
                if not self._read_string(text):
                    return None
            elif self._expect in ("value", "value or close") and text[self._at] not in _NO_SCALAR:
                if not self._read_scalar(text):
                    return None
            else:
                self._take(text[self._at])
                self._at += 1
        if self._expect != "nothing":
            return None
        self.certain = True
        return self._at

    def _read_string(self, text: str) -> bool:
        stop = _STRING_STOP.search(text, self._at)
        end = stop.start() if stop else len(text)
        if end > self._at:
            self._written.append(json.dumps(text[self._at : end], ensure_ascii=False)[1:-1])
            self._at = end
        if stop is None:
            return False
        if stop[0] == "\\":
            return self._read_escape(text)
        self._written.append('"')
        self._at = stop.end()
        self._in_string = False
        self._expect = "colon" if self._expect == "in key" else self._after_value
        return True

    @property
    def _after_value(self) -> str:
        return "comma or close" if self._stack else "nothing"

    def _read_escape(self, text: str) -> bool:
        escape = _ESCAPE.match(text, self._at)
        if escape is None:
            if _ESCAPE_BEGUN.fullmatch(text, self._at):
                return False
            raise ValueError("no escape")
        char, end = json.loads(f'"{escape[0]}"'), escape.end()
        if "\ud800" <= char <= "\udbff":
            low = _LOW_HALF.match(text, end)
            if low is None and _LOW_HALF_BEGUN.fullmatch(text, end):
                return False
            if low is not None:
                char, end = json.loads(f'"{escape[0]}{low[0]}"'), low.end()
        # Half of a pair cannot be sent but as an escape.
        self._written.append(json.dumps(char, ensure_ascii="\ud800" <= char <= "\udfff")[1:-1])
        self._at = end
        return True

    def _read_scalar(self, text: str) -> bool:
        match = _SCALAR_CHARS.match(text, self._at)
        end = match.end() if match else self._at
        if end - self._at > _SCALAR_LIMIT:
            raise ValueError("a number too long")
        if end == len(text):
            return False
        if not _SCALAR.fullmatch(text, self._at, end):
            raise ValueError("no JSON value")
        self._written.append(json.dumps(load_json(text[self._at : end])))
        self._at, self._expect = end, self._after_value
        return True

    def _take(self, char: str) -> None:
        """Move over one character outside strings and scalars."""
        if char in _BLANK:
            return
        expect = self._expect
        if char in "{[" and expect in ("open", "value", "value or close"):
            if len(self._stack) == _DEPTH_LIMIT:
                raise ValueError("nested too deep")
            self._stack.append("}" if char == "{" else "]")
            self._expect = "key or close" if char == "{" else "value or close"
        elif char == '"' and expect in ("key", "key or close", "value", "value or close"):
            self._in_string = True
            self._expect = "in key" if expect.startswith("key") else "in value"
        elif char == ":" and expect == "colon":
            self._expect, self.certain = "value", True
        elif char == "," and expect == "comma or close":
            self._expect = "key" if self._stack[-1] == "}" else "value"
        elif expect.endswith("close") and char == self._stack[-1]:
            self._stack.pop()
            self._expect = self._after_value
        else:
            raise ValueError(f"not expected: {expect}")
        self._written.append(char + " " if char in ",:" else char)
