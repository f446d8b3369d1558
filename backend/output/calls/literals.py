"""Python and JSON literals as models mix them. Own reader: `ast` warns, recurses and knows no `true`."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.output.calls.json_text import finite

_BLANK = re.compile(r"\s*")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][\d_]*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NAMES = {
    "true": True,
    "false": False,
    "null": None,
    "True": True,
    "False": False,
    "None": None,
}
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "a": "\a",
    "v": "\v",
    "0": "\0",
    "\n": "",
}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_MAX_DEPTH = 64
_MAX_DIGITS = 4000


def skip_blank(text: str, at: int) -> int:
    """The first position from `at` on that is no white space."""
    match = _BLANK.match(text, at)
    return match.end() if match else at


def read_literal(text: str, at: int, *, depth: int = 0) -> tuple[Any, int]:
    """The literal that begins at `at` (white space allowed), and where it ends.

    Raises:
        ValueError, IndexError: There is none, or it is nested deeper than 64.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    at = skip_blank(text, at)
    char = text[at]
    if char in "\"'":
        return _read_string(text, at)
    if char in "[(":
        read = partial(read_literal, depth=depth + 1)
        return read_elements(text, at + 1, "]" if char == "[" else ")", read)
    if char == "{":
        members, end = read_elements(text, at + 1, "}", partial(_read_member, depth=depth + 1))
        return dict(members), end
    if match := _NUMBER.match(text, at):
        return _number(match[0]), match.end()
    match = _NAME.match(text, at)
    if match is None or match[0] not in _NAMES:
        raise ValueError("no literal")
    return _NAMES[match[0]], match.end()


def whole_literal(text: str) -> Any:
    """The value that all of the text is.

    Raises:
        ValueError, IndexError: It is no literal, or there is more.
    """
    value, end = read_literal(text, 0)
    if skip_blank(text, end) != len(text):
        raise ValueError("more than a literal")
    return value


def read_elements(text: str, at: int, close: str, read: Callable[[str, int], tuple[Any, int]]) -> tuple[list[Any], int]:
    """What `read` reads, again and again with commas between, up to `close`; and where that ends.

    Raises:
        ValueError, IndexError: Neither a comma nor `close` follows one, or as `read` does.
    """
    elements: list[Any] = []
    at = skip_blank(text, at)
    while text[at] != close:
        element, at = read(text, at)
        elements.append(element)
        at = skip_blank(text, at)
        if text[at] == ",":
            at = skip_blank(text, at + 1)
        elif text[at] != close:
            raise ValueError(f"no comma or {close}")
    return elements, at + 1


def _number(text: str) -> int | float:
    if len(text) > _MAX_DIGITS:
        raise ValueError("number too long")
    return finite(text) if any(char in text for char in ".eE") else int(text)


def _read_string(text: str, at: int) -> tuple[str, int]:
    quote = text[at]
    if text.startswith(quote * 3, at):
        quote *= 3
    at += len(quote)
    parts: list[str] = []
    while not text.startswith(quote, at):
        if text[at] == "\\":
            part, at = _read_escape(text, at + 1)
        else:
            part, at = text[at], at + 1
        parts.append(part)
    # A pair of \u escapes above U+FFFF arrives as two surrogates.
    joined = "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return joined, at + len(quote)


def _read_escape(text: str, at: int) -> tuple[str, int]:
    char = text[at]
    if digits := _HEX_DIGITS.get(char):
        code = int(text[at + 1 : at + 1 + digits], 16)
        return chr(code), at + 1 + digits
    if char in "\\'\"/":
        return char, at + 1
    return _ESCAPES.get(char, "\\" + char), at + 1


def _read_member(text: str, at: int, *, depth: int) -> tuple[tuple[str, Any], int]:
    key, at = read_literal(text, at, depth=depth)
    at = skip_blank(text, at)
    if text[at] != ":" or isinstance(key, list | dict):
        raise ValueError("no key")
    value, at = read_literal(text, at + 1, depth=depth)
    return (key if isinstance(key, str) else str(key), value), at
