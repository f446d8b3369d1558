"""Finding any of several marker texts in text that arrives in pieces."""

import re
from collections.abc import Iterable


class MarkerSet:
    """Immutable; shared by all requests of a model."""

    def __init__(self, markers: Iterable[str]) -> None:
        ordered = sorted(set(markers) - {""}, key=len, reverse=True)
        self.markers = tuple(ordered)
        self._firsts = tuple({marker[0] for marker in ordered})
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        self._prefixes = frozenset(marker[:n] for marker in ordered for n in range(1, len(marker)))
        self._longest = len(ordered[0]) - 1 if ordered else 0

    def absent(self, text: str) -> bool:
        """Whether no marker can begin anywhere in `text`; cheap."""
        return all(first not in text for first in self._firsts)

    def find(self, text: str, *, final: bool) -> tuple[int, str]:
        """The first marker, longest first: `(start, marker)`.

        `(start, "")` where there is none yet: `text[:start]` is free of markers and the rest may become one.
        With `final` nothing more comes, so a beginning is no marker.
        """
        match = self._pattern.search(text)
        hold = len(text) if final else len(text) - self._partial(text)
        if match is None or match.start() >= hold:
            return hold, ""
        return match.start(), match[0]

    def _partial(self, text: str) -> int:
        """Length of the longest end of `text` that begins a marker without being all of it."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._prefixes:
                return length
        return 0
