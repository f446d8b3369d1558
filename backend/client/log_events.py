"""The events in a worker's log, read back from its lines."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_FIELD = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')
_EVENT = re.compile(r"time=\S+ level=(\w+) logger=\S+ (\w+)(?: |$)")
_HEAD = re.compile(r"time=\S+ level=\S+ logger=\S+ ")


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of the log."""

    level: str
    name: str
    fields: Mapping[str, str]

    def number(self, name: str) -> float:
        """A field as a number; 0 where it is none."""
        try:
            return float(self.fields.get(name, ""))
        except ValueError:
            return 0.0


def event_of(line: str) -> LogEvent | None:
    """The event of a line; None for a line that is none."""
    found = _EVENT.match(line)
    if found is None:
        return None
    rest = line[found.end() :]
    fields = {name: _unescaped(quoted) if quoted else plain for name, quoted, plain in _FIELD.findall(rest)}
    return LogEvent(found[1], found[2], fields)


def without_head(line: str) -> str:
    """A line for people: without its time, level and logger."""
    return _HEAD.sub("", line)


def _unescaped(text: str) -> str:
    try:
        return text.encode("ascii").decode("unicode_escape")
    except UnicodeError:
        return text
