"""One form for log lines: an event's name and its fields. Never prompts, outputs, tools or tokens."""

import re
from collections.abc import Mapping
from typing import Final

# Characters of a value. A client chooses names and texts, and must not choose the size of the log.
MAX_VALUE: Final = 1024
_PLAIN = re.compile(r"[!#-<>-~]+")  # printable ASCII without space, quote and equals sign


class LogLine(str):
    """A line as text, which remembers what it was made of: it may be written in another form.

    Attributes:
        fields: By name; none is None.
    """

    __slots__ = ("event", "fields")
    event: str
    fields: Mapping[str, object]


def logline(event: str, **fields: object) -> LogLine:
    """`event key=value ...`; values that need it are quoted, newlines escaped, long ones cut, None left out."""
    given = {key: value for key, value in fields.items() if value is not None}
    line = LogLine(" ".join((event, *(f"{key}={_value(value)}" for key, value in given.items()))))
    line.event, line.fields = event, given
    return line


def _value(value: object) -> str:
    text = bounded(f"{value:.3f}" if isinstance(value, float) else str(value), MAX_VALUE)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def visible(text: str) -> str:
    """`text`, with an escape in place of each character that shows nothing or turns what stands around it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def bounded(text: str, most: int) -> str:
    """`text`, or its first `most` characters and how many more it had."""
    return text if len(text) <= most else f"{text[:most]}...+{len(text) - most}"
