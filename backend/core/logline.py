"""One form for log lines: an event's name, then `key=value` pairs. Never prompts, outputs, tools or tokens."""

import re

_PLAIN = re.compile(r"[!#-<>-~]+")  # printable ASCII without space, quote and equals sign


def logline(event: str, **fields: object) -> str:
    """`event key=value ...`; values that need it are quoted, newlines escaped, None left out."""
    pairs = (f"{key}={_value(value)}" for key, value in fields.items() if value is not None)
    return " ".join((event, *pairs))


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'
