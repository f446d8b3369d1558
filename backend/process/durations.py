"""Durations as people and Go programs write them."""

import re

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")


def seconds_of(text: str) -> float:
    """Seconds of `2`, `0.5`, `500ms`, `1m30s`.

    Raises:
        ValueError: It is no duration.
    """
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 2, 500ms or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
