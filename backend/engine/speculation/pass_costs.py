"""What a pass over drafted tokens costs, as measured: in plain steps of as many rows."""

from bisect import bisect_left
from collections import deque
from statistics import median

# One alone says little: it may be the one that compiled something.
_ENOUGH = 2
_REMEMBERED = 7
_REMEMBERED_PLAIN = 15
# So many choices after it was last measured a cost is worth another try.
_STALE = 2_000
# Of each token of depth, where nothing at all has been measured.
_ASSUMED_SLOPE = 0.05


class _Measured:
    """The passes of one depth over one number of rows."""

    __slots__ = ("_depth", "_ratios", "at", "n", "ratio")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED)
        self.n = 0
        self.at = 0
        self.ratio = 1.0

    def add(self, ratio: float, *, now: int) -> None:
        if now - self.at >= _STALE:
            self._ratios.clear()
            self.n = 0
        self._ratios.append(ratio)
        self.n += 1
        self.at = now
        # Dearer than a step a token is no machine, but one that did something else.
        self.ratio = median(self._ratios) if self.n > _ENOUGH else min(*self._ratios, self._depth + 1.0)


class _Alike:
    """All that was measured with one number of rows."""

    __slots__ = ("_plain", "depths", "passes", "plain", "ratios")

    def __init__(self) -> None:
        self._plain: deque[float] = deque(maxlen=_REMEMBERED_PLAIN)
        self.plain: float | None = None
        self.passes: dict[int, _Measured] = {}
        # The same as lists, ascending by depth, with the plain step.
        self.depths = [0]
        self.ratios = [1.0]

    def add_plain(self, seconds: float) -> None:
        self._plain.append(seconds)
        if len(self._plain) >= _ENOUGH:
            self.plain = median(self._plain)

    def add_pass(self, depth: int, ratio: float, *, now: int) -> None:
        self.passes.setdefault(depth, _Measured(depth)).add(ratio, now=now)
        self.depths = [0, *sorted(self.passes)]
        self.ratios = [1.0, *(self.passes[depth].ratio for depth in self.depths[1:])]


class PassCosts:
    """Medians of the last few measurements by the number of rows. Engine thread only.

    A ratio is taken against the plain steps of its time, so it holds as rows grow longer.
    """

    def __init__(self) -> None:
        self._by_rows: dict[int, _Alike] = {}

    def plain(self, rows: int) -> float | None:
        """Seconds of a plain step of about so many rows; None while it is not known."""
        alike = self._by_rows.get(_alike(rows))
        return alike.plain if alike is not None else None

    def took(self, rows: int, depth: int, seconds: float, *, now: int) -> float | None:
        """A plain step (depth 0) or a pass has been measured; its ratio, where plain steps are known."""
        alike = self._by_rows.setdefault(_alike(rows), _Alike())
        if depth == 0:
            alike.add_plain(seconds)
            return 1.0
        if not alike.plain:
            return None
        ratio = seconds / alike.plain
        alike.add_pass(depth, ratio, now=now)
        return ratio

    def is_known(self, rows: int, depth: int, *, now: int) -> bool:
        """Whether this depth has been measured with about so many rows, more than once and lately."""
        alike = self._by_rows.get(_alike(rows))
        measured = alike.passes.get(depth) if alike is not None else None
        return measured is not None and measured.n >= _ENOUGH and now - measured.at < _STALE

    def deepest(self, rows: int) -> int:
        """The deepest depth that was ever measured with about so many rows; 0 for none."""
        alike = self._by_rows.get(_alike(rows))
        return alike.depths[-1] if alike is not None else 0

    def at_least(self, rows: int, depth: int) -> float:
        """What a pass of this depth costs if it costs no more than the dearest measured one that is less deep."""
        alike = self._by_rows.get(_alike(rows))
        return max(alike.ratios[: bisect_left(alike.depths, depth)]) if alike is not None else 1.0

    def ratio(self, rows: int, depth: int) -> float:
        """The expected cost of a pass, depth 1 or more: measured, or on the line through the measured depths about it.

        Where none was measured with about so many rows, it is that of the nearest number which has any.
        """
        depths, ratios = self._curve(rows)
        if len(depths) == 1:
            return 1.0 + _ASSUMED_SLOPE * depth
        right = min(bisect_left(depths, depth), len(depths) - 1)
        left = right - 1
        slope = (ratios[right] - ratios[left]) / (depths[right] - depths[left])
        if depth > depths[right]:
            return ratios[right] + max(0.0, slope) * (depth - depths[right])
        return ratios[right] - slope * (depths[right] - depth)

    def _curve(self, rows: int) -> tuple[list[int], list[float]]:
        wanted = _alike(rows)
        alike = self._by_rows.get(wanted)
        if alike is None or not alike.passes:
            others = [other for other, measured in self._by_rows.items() if measured.passes]
            alike = self._by_rows[min(others, key=lambda other: abs(other - wanted))] if others else None
        return (alike.depths, alike.ratios) if alike is not None else ([0], [1.0])


def _alike(rows: int) -> int:
    """The same for numbers of rows whose steps cost about the same: exact up to 8, then to a seventh."""
    if rows <= 8:
        return rows
    step = 1 << ((rows - 1).bit_length() - 3)
    return -(-rows // step) * step
