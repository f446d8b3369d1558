"""Something that takes a while, as a line of text. Pure."""

from dataclasses import dataclass
from typing import Literal

from backend.terminal.showing import count, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far something is.

    Attributes:
        what: In words.
        done, total: In `unit`; a total of 0 is not known.
        rate: In `unit` a second; 0 is not known.
        left_s: Seconds that it may still take; None is not known.
    """

    what: str
    done: float = 0
    total: float = 0
    unit: Literal["bytes", "tokens", "requests"] = "bytes"
    rate: float = 0
    left_s: float | None = None

    @property
    def share(self) -> float | None:
        """Of the whole that is done; None where the whole is not known."""
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def figures(self) -> str:
        """How much of how much, how fast, how long yet."""
        parts: list[str] = []
        if self.total:
            done = size(self.done) if self.unit == "bytes" else count(self.done)
            parts.append(f"{done} of {self._amount(self.total)}")
        if self.rate:
            parts.append(f"{self._amount(self.rate)}/s")
        if self.left_s is not None:
            parts.append(f"{duration(self.left_s)} left")
        return ", ".join(parts)

    @property
    def line(self) -> str:
        """All of it."""
        return f"{self.what}: {self.figures}" if self.figures else self.what

    def _amount(self, value: float) -> str:
        return size(value) if self.unit == "bytes" else f"{count(value)} {self.unit}"


def duration(seconds: float) -> str:
    """A time to wait, such as `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
