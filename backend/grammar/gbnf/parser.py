"""Reads GBNF, the grammar notation of llama.cpp.

Taken besides llama.cpp's own: `_` in names, a newline before `|`, `{,m}`, and a backslash before any ASCII
punctuation. Refused: token literals (`<...>`), escapes with letters that stand for classes (`\\d`), and whatever
llama.cpp refuses too. A rule defined twice counts as its last definition, as there.
"""

import string
from typing import NoReturn

from backend.grammar.gbnf.nodes import (
    EMPTY,
    MAX_CODE_POINT,
    Chars,
    GbnfError,
    Node,
    Ref,
    Repeat,
    Text,
    alternatives,
    references,
    sequence,
)

MAX_DEPTH = 100  # of brackets
MAX_REPEAT = 100_000
MAX_QUANTIFIERS = 5
_NAME = frozenset(string.ascii_letters + string.digits + "-_")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_CONTEXT = 20


def parse_gbnf(text: str) -> dict[str, Node]:
    """The rules of a grammar by name; `root` is among them and every reference is to one of them.

    Raises:
        GbnfError: It is not GBNF, or uses what is not supported.
    """
    return _Parser(text).parse()


class _Parser:
    """A cursor over the text. One use."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._first_use: dict[str, int] = {}

    def parse(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip_space(newlines=True)
        while self._at < len(self._text):
            name = self._name()
            self._skip_space(newlines=False)
            if not self._take("::="):
                self._fail("expected '::='")
            self._skip_space(newlines=True)
            rules[name] = self._alternatives()
            if self._at < len(self._text) and self._peek() not in "\r\n":
                self._fail("expected a rule part, '|' or the end of the line")
            self._skip_space(newlines=True)
        self._check(rules)
        return rules

    def _check(self, rules: dict[str, Node]) -> None:
        if "root" not in rules:
            raise GbnfError("there is no rule named 'root'")
        for node in rules.values():
            for name in references(node):
                if name not in rules:
                    self._fail(f"rule '{name}' is not defined", self._first_use[name])

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        before, after = self._text[max(0, at - _CONTEXT) : at], self._text[at : at + _CONTEXT]
        raise GbnfError(f"line {line}, column {column}: {reason}, at {before!r} ^ {after!r}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> bool:
        if self._text.startswith(expected, self._at):
            self._at += len(expected)
            return True
        return False

    def _skip_space(self, *, newlines: bool) -> None:
        while char := self._peek():
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in " \t" or (newlines and char in "\r\n"):
                self._at += 1
            else:
                return

    def _name(self) -> str:
        start = self._at
        while self._peek() and self._peek() in _NAME:
            self._at += 1
        if self._at == start:
            self._fail("expected a rule name")
        return self._text[start : self._at]

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._take_bar():
            self._skip_space(newlines=True)
            options.append(self._sequence())
        return alternatives(options)

    def _take_bar(self) -> bool:
        # A line that begins with `|` goes on with the rule: no rule's name begins so.
        start = self._at
        self._skip_space(newlines=True)
        if self._take("|"):
            return True
        self._at = start
        return False

    def _sequence(self) -> Node:
        items: list[Node] = []
        while True:
            self._skip_space(newlines=self._depth > 0)
            item = self._item()
            if item is None:
                return sequence(items) if items else EMPTY
            items.append(self._quantified(item))

    def _item(self) -> Node | None:
        char = self._peek()
        if not char or char in "|)\r\n":
            return None
        if char == '"':
            return self._literal()
        if char == "[":
            return self._char_class()
        if char == "(":
            return self._group()
        if self._take("."):
            return Chars(((0, MAX_CODE_POINT),))
        if char in "<!":
            self._fail("token literals are not supported")
        if char in _NAME:
            start = self._at
            name = self._name()
            self._first_use.setdefault(name, start)
            return Ref(name)
        self._fail(f"unexpected character {char!r}")

    def _group(self) -> Node:
        start = self._at
        self._at += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"brackets are nested deeper than {MAX_DEPTH}")
        node = self._alternatives()
        self._skip_space(newlines=True)
        if not self._take(")"):
            if not self._peek():
                self._fail("'(' is not closed", start)
            self._fail("expected ')'")
        self._depth -= 1
        return node

    def _literal(self) -> Node:
        start = self._at
        self._at += 1
        value = ""
        while not self._take('"'):
            value += self._char(start)
        return Text(value) if value else EMPTY

    def _char_class(self) -> Node:
        start = self._at
        self._at += 1
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            low = high = self._char(start)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._char(start)
            if high < low:
                self._fail(f"range {low!r} to {high!r} is empty", start)
            ranges.append((ord(low), ord(high)))
        if not ranges:
            self._fail("an empty character class matches nothing", start)
        merged = _merged(ranges)
        if negated and not (merged := _complement(merged)):
            self._fail("the class excludes every character", start)
        return Chars(merged)

    def _char(self, start: int) -> str:
        char = self._peek()
        if not char:
            self._fail("is not closed", start)
        self._at += 1
        if char != "\\":
            return char
        kind = self._peek()
        self._at += 1
        if kind in _HEX_DIGITS:
            return self._hex(kind)
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        if not kind or kind not in string.punctuation:
            self._fail(f"escape '\\{kind}' is not supported", self._at - 2)
        return kind

    def _hex(self, kind: str) -> str:
        digits = self._text[self._at : self._at + _HEX_DIGITS[kind]]
        if len(digits) < _HEX_DIGITS[kind] or not all(d in string.hexdigits for d in digits):
            self._fail(f"'\\{kind}' needs {_HEX_DIGITS[kind]} hexadecimal digits", self._at - 2)
        code = int(digits, 16)
        if code > MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
            self._fail(f"U+{code:04X} is not a character", self._at - 2)
        self._at += len(digits)
        return chr(code)

    def _quantified(self, item: Node) -> Node:
        for _ in range(MAX_QUANTIFIERS):
            self._skip_space(newlines=self._depth > 0)
            char = self._peek()
            if char and char in _QUANTIFIERS:
                self._at += 1
                low, high = _QUANTIFIERS[char]
            elif char == "{":
                low, high = self._bounds()
            else:
                return item
            item = Repeat(item, low, high)
        self._fail(f"more than {MAX_QUANTIFIERS - 1} repetitions of one item")

    def _bounds(self) -> tuple[int, int | None]:
        start = self._at
        self._at += 1
        low = self._integer()
        high: int | None = low
        self._skip_space(newlines=True)
        if self._take(","):
            high = self._integer()
        self._skip_space(newlines=True)
        if not self._take("}") or (low is None and high is None):
            self._fail("expected '{n}', '{n,}', '{n,m}' or '{,m}'", start)
        low = low or 0
        if high is not None and high < low:
            self._fail(f"at most {high} and at least {low} times is impossible", start)
        if max(low, high or 0) > MAX_REPEAT:
            self._fail(f"repeats more than {MAX_REPEAT} times", start)
        return low, high

    def _integer(self) -> int | None:
        self._skip_space(newlines=True)
        start = self._at
        while self._peek() and self._peek() in string.digits:
            self._at += 1
        digits = self._text[start : self._at]
        if len(digits) > 9:
            self._fail("number is too large", start)
        return int(digits) if digits else None


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    low = 0
    for start, end in ranges:
        if low < start:
            out.append((low, start - 1))
        low = end + 1
    if low <= MAX_CODE_POINT:
        out.append((low, MAX_CODE_POINT))
    return tuple(out)
