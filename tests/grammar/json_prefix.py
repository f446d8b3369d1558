"""An incremental JSON acceptor, independent of llguidance: is this text the beginning of a JSON value?"""

import json
import re

_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_STRING_TAIL = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NUMBER_PREFIX = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:(?<=[0-9])[eE][-+]?[0-9]*)?)?")
_SPACE = re.compile(r"[ \t\n\r]*")


class _End(Exception):
    """The text ends here, and all of it was right."""


def is_json(text: str) -> bool:
    """Whether it is all of a JSON value."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def is_json_prefix(text: str) -> bool:
    """Whether some JSON value begins with the text."""
    try:
        at = _value(text, _space(text, 0))
    except _End:
        return True
    except ValueError:
        return False
    return _SPACE.fullmatch(text, at) is not None


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    if match.end() == len(text):
        raise _End
    return match.end()


def _value(text: str, at: int) -> int:
    if text[at] == "{":
        return _members(text, at + 1, "}", keyed=True)
    if text[at] == "[":
        return _members(text, at + 1, "]", keyed=False)
    if text[at] == '"':
        return _string(text, at)
    for word in ("true", "false", "null"):
        if text.startswith(word, at):
            return at + len(word)
        if word.startswith(text[at:]):
            raise _End
    return _number(text, at)


def _members(text: str, at: int, close: str, *, keyed: bool) -> int:
    at = _space(text, at)
    if text[at] == close:
        return at + 1
    while True:
        if keyed:
            at = _space(text, _string(text, at))
            at = _space(text, _expect(text, at, ":"))
        at = _space(text, _value(text, at))
        if text[at] == close:
            return at + 1
        at = _space(text, _expect(text, at, ","))


def _expect(text: str, at: int, char: str) -> int:
    if text[at] != char:
        raise ValueError(at)
    return at + 1


def _string(text: str, at: int) -> int:
    match = _STRING.match(text, at)
    if match is None:
        raise ValueError(at)
    end = match.end()
    if end == len(text) or _STRING_TAIL.fullmatch(text, end):
        raise _End
    return _expect(text, end, '"')


def _number(text: str, at: int) -> int:
    prefix = _NUMBER_PREFIX.match(text, at)
    if prefix and prefix.end() == len(text):
        raise _End
    match = _NUMBER.match(text, at)
    if match is None:
        raise ValueError(at)
    return match.end()
