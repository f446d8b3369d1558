"""Whole numbers of a range as a regular expression, where free text may stand beside them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Where a schema sets no bound: as many digits as a double holds exactly.
_MOST = 10**15 - 1


def bounded_pattern(schema: Mapping[str, Any]) -> str | None:
    """The whole numbers that a numeric schema takes; None if there are none, or it says more than their bounds."""
    if "multipleOf" in schema:
        return None
    bounds = {key: value for key, value in schema.items() if isinstance(value, int | float)}
    low = max(
        -_MOST, math.ceil(bounds.get("minimum", -_MOST)), math.floor(bounds.get("exclusiveMinimum", -_MOST - 1)) + 1
    )
    high = min(
        _MOST, math.floor(bounds.get("maximum", _MOST)), math.ceil(bounds.get("exclusiveMaximum", _MOST + 1)) - 1
    )
    return range_pattern(low, high) if low <= high else None


def range_pattern(low: int, high: int) -> str:
    """The whole numbers from `low` to `high`, both included."""
    options: list[str] = []
    if low < 0:
        options.append(f"-(?:{'|'.join(_positive(max(1, -high), -low))})")
    if high >= 0:
        options += _positive(max(0, low), high)
    return "|".join(options)


def _positive(low: int, high: int) -> Iterator[str]:
    for digits in range(len(str(low)), len(str(high)) + 1):
        begin = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        yield _same_length(str(begin), str(min(high, 10**digits - 1)))


def _same_length(low: str, high: str) -> str:
    if not low:
        return ""
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return f"[{low[0]}-{high[0]}]" + (f"[0-9]{{{rest}}}" if rest else "")
    if low[0] == high[0]:
        return low[0] + _same_length(low[1:], high[1:])
    options = [low[0] + _same_length(low[1:], "9" * rest), high[0] + _same_length("0" * rest, high[1:])]
    if int(high[0]) - int(low[0]) > 1:
        options.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{rest}}}")
    return f"(?:{'|'.join(options)})"
