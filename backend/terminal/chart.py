"""Charts of block characters. Pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_HEIGHTS: Final = "▁▂▃▄▅▆▇█"


def bar(share: float, width: int) -> str:
    """A bar of `share` of `width` characters, to an eighth of one."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def spark(values: Sequence[float], highest: float | None = None) -> str:
    """A line of heights, the highest of which is `highest`."""
    top = max(values, default=0.0) if highest is None else highest
    if top <= 0:
        return _HEIGHTS[0] * len(values)
    return "".join(_HEIGHTS[min(7, max(0, math.ceil(value / top * 8) - 1))] for value in values)


def histogram(values: Mapping[str, Sequence[float]], *, width: int, bins: int = 8) -> list[str]:
    """How often times occur, in bins that grow by the same factor, with a bar for each name.

    Args:
        values: Seconds by name, all above zero.
        width: Of a bar.
    """
    everything = [value for some in values.values() for value in some if value > 0]
    if not everything:
        return []
    edges = _edges(min(everything), max(everything), bins)
    counted = {name: _counts(some, edges) for name, some in values.items()}
    most = max(max(counts) for counts in counted.values())
    names = max(map(len, values)) if len(values) > 1 else 0
    lines: list[str] = []
    for place, (low, high) in enumerate(pairwise(edges)):
        label = f"{milliseconds(low):>8} to {milliseconds(high):<8}"
        for name, counts in counted.items():
            who = f" {name.ljust(names)}" if names else ""
            number = str(counts[place]) if counts[place] else ""
            lines.append(f"{label}{who} │{bar(counts[place] / most, width)} {number}".rstrip())
            label = " " * len(label)
    return lines


def milliseconds(seconds: float) -> str:
    """A time of a request, to three digits: `0.52 ms`, `12.3 ms`, `1.20 s`."""
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds >= 10 else f"{seconds:.2f} s"
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def _edges(least: float, most: float, bins: int) -> list[float]:
    # One bin for values that are as good as equal.
    if most < least * 1.05:
        return [least * 0.98, most * 1.02]
    factor = (most / least) ** (1 / bins)
    return [least * factor**place for place in range(bins)] + [most]


def _counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    for value in values:
        if value > 0:
            place = next((i for i, high in enumerate(edges[1:]) if value <= high), len(counts) - 1)
            counts[place] += 1
    return counts
