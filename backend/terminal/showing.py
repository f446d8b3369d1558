"""Figures and tables as a person reads them. Pure."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(nbytes: float) -> str:
    """Bytes, such as `512 B` or `1.2 GiB`."""
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    value, rest = nbytes / 1024, _UNITS
    # What would be rounded up to 1024 has the next unit.
    while round(value, 1) >= 1024 and len(rest) > 1:
        value, rest = value / 1024, rest[1:]
    return f"{value:.1f} {rest[0]}"


def age(seconds: float) -> str:
    """A time that has passed, in whole units of its largest: `12 s`, `3 min`, `2 h`, `5 d`; negative is `-`, never."""
    if seconds < 0:
        return "-"
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return "0 s"


def count(n: float) -> str:
    """A count with its thousands apart."""
    return f"{n:,.0f}"


def files(n: int, nbytes: int) -> str:
    """How many files and how large, such as `2 files, 1.5 KiB`."""
    return f"{count(n)} {'file' if n == 1 else 'files'}, {size(nbytes)}"


def percent(share: float) -> str:
    """A share of one."""
    return f"{100 * share:.1f} %"


def figure(name: str, value: float) -> str:
    """One of the cache's figures, bytes as a size."""
    is_bytes = "bytes" in name or name.endswith("written_today")
    return size(value) if is_bytes else count(value)


def printable(text: str) -> str:
    """Text that moves no cursor: a file may hold what no worker has written."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def one_line(text: str) -> str:
    """Text as one printable line."""
    return printable(" ".join(text.split()))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> list[str]:
    """Aligned columns two spaces apart; those whose heading is in `right` end together, others begin together."""
    cells = [list(headings), *(list(map(printable, row)) for row in rows)]
    widths = [max(map(_cells, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(_padded, row, widths, [h in right for h in headings])).rstrip() for row in cells]


def pairs(facts: Mapping[str, str]) -> list[str]:
    """One fact a line, the values below each other."""
    width = max(map(len, facts), default=0)
    return [f"{name.ljust(width)}  {printable(value)}".rstrip() for name, value in facts.items()]


def _padded(text: str, width: int, is_right: bool) -> str:
    room = " " * (width - _cells(text))
    return room + text if is_right else text + room


def _cells(text: str) -> int:
    """Columns of a terminal that a text takes: two for a wide letter, none for a mark on the one before it."""
    return sum(_width(letter) for letter in text)


def _width(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
