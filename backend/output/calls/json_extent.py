"""Where a JSON value that arrives in pieces ends, and whether it can still become one."""

import re

_STRING_STOP = re.compile(r'["\\]')
_SCALAR_CHARS = re.compile(r"[-+.\w]*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_SCALAR_LIMIT = 4096
_BLANK = " \t\r\n"
_NO_SCALAR = _BLANK + '{["]'
_DEPTH_LIMIT = 512


class JsonExtent:
    """Follows one JSON object or array through text that grows. Line breaks inside strings are allowed.

    The work is linear in the text, however it is cut.
    """

    def __init__(self, at: int = 0) -> None:
        self._at = at
        self._stack: list[str] = []
        self._in_string = False
        self._expect = "open"

    def find_end(self, text: str) -> int | None:
        """The position after the value in `text`, or None if it is not complete. Earlier text must not change.

        Raises:
            ValueError: No JSON object or array begins so.
        """
        while self._at < len(text):
            if self._in_string:
                if not self._skip_string(text):
                    return None
            elif self._expect in ("value", "value or close") and text[self._at] not in _NO_SCALAR:
                if not self._skip_scalar(text):
                    return None
            else:
                self._take(text[self._at])
                self._at += 1
                if self._expect == "nothing":
                    return self._at
        return None

    def _skip_string(self, text: str) -> bool:
        stop = _STRING_STOP.search(text, self._at)
        if stop is None:
            self._at = len(text)
            return False
        if stop[0] == "\\":
            if stop.end() == len(text):
                self._at = stop.start()
                return False
            self._at = stop.end() + 1
            return True
        self._at = stop.end()
        self._in_string = False
        self._expect = "colon" if self._expect == "in key" else "comma or close"
        return True

    def _skip_scalar(self, text: str) -> bool:
        match = _SCALAR_CHARS.match(text, self._at)
        end = match.end() if match else self._at
        if end - self._at > _SCALAR_LIMIT:
            raise ValueError("a number too long")
        if end == len(text):
            return False
        if not _SCALAR.fullmatch(text, self._at, end):
            raise ValueError("no JSON value")
        self._at, self._expect = end, "comma or close"
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
        elif char == '"' and expect in (
            "key",
            "key or close",
            "value",
            "value or close",
        ):
            self._in_string = True
            self._expect = "in key" if expect.startswith("key") else "in value"
        elif char == ":" and expect == "colon":
            self._expect = "value"
        elif char == "," and expect == "comma or close":
            self._expect = "key" if self._stack[-1] == "}" else "value"
        elif expect.endswith("close") and char == self._stack[-1]:
            self._stack.pop()
            self._expect = "comma or close" if self._stack else "nothing"
        else:
            raise ValueError(f"not expected: {expect}")
