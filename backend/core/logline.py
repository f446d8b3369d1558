"""One form for log lines: an event's name, then `key=value` pairs. Never prompts, outputs, tools or tokens."""

import re
from typing import Final

# Characters of a value. A client chooses names and texts, and must not choose the size of the log.
MAX_VALUE: Final = 1024
_PLAIN = re.compile(r"[!#-<>-~]+")  # printable ASCII without space, quote and equals sign


def logline(event: str, **fields: object) -> str:
    """`event key=value ...`; values that need it are quoted, newlines escaped, long ones cut, None left out."""
    pairs = (f"{key}={_value(value)}" for key, value in fields.items() if value is not None)
    return " ".join((event, *pairs))


def _value(value: object) -> str:
    text = bounded(f"{value:.3f}" if isinstance(value, float) else str(value), MAX_VALUE)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def bounded(text: str, most: int) -> str:
    """`text`, or its first `most` characters and how many more it had."""
    return text if len(text) <= most else f"{text[:most]}...+{len(text) - most}"
