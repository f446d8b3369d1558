"""What it costs to have another model draft, as measured: in plain steps of as many rows."""

from collections.abc import Mapping, Sequence

from backend.engine.speculation.pass_costs import PassCosts

# A round that took more than so many times what was expected was not alone on the machine; nor is any charged for more
# than a step a token before rounds are known.
_OUTLIER = 1.5
_LEAST_OUTLIER = 0.5
# While the model's drafts do not pay it is thought of ever less often, down to one step of so many.
_REFUSALS = 8
_RAREST = 16


class DraftingCosts:
    """Of rounds of drafting, and of the passes over what they give. Engine thread only, one a session.

    To be asked as `PassCosts` are: a depth costs what its pass costs, and what it costs to draft as many tokens.

    Args:
        passes: What passes alone cost, and plain steps.
    """

    def __init__(self, passes: PassCosts) -> None:
        self._passes = passes
        # Each is entered with a plain step beside it, so that their cost at depth 0 is that of a plain step.
        self._rounds = PassCosts()
        self._due = 0.0
        self._refused: dict[int, int] = {}
        self._rest: dict[int, int] = {}
        self._n = 0
        self._spent = 0.0

    def calibrated(self, plain: float, rounds: Mapping[int, Sequence[float]]) -> None:
        """Seconds of a plain step of one row, and of rounds for one by the tokens drafted, measured at the load."""
        self._enter_plain(1, plain, now=0)
        for count, measured in rounds.items():
            for seconds in measured:
                self._rounds.took(1, count, plain + seconds, now=0)

    def took(self, rows: int, count: int, seconds: float, *, now: int) -> None:
        """A round has drafted so many tokens for each of so many rows."""
        self._n += 1
        plain = self._passes.plain(rows)
        if not plain:
            return
        is_known = self._rounds.is_known(rows, count, now=now)
        limit = max(_OUTLIER * self._round(rows, count), _LEAST_OUTLIER if is_known else float(count))
        self._enter_plain(rows, plain, now=now)
        self._rounds.took(rows, count, plain + seconds, now=now)
        self._due += min(seconds / plain, limit)

    def take_due(self) -> float:
        """Plain steps that rounds have cost since this was last asked."""
        due, self._due = self._due, 0.0
        self._spent += due
        return due

    def rests(self, rows: int) -> bool:
        """Whether the model is not to be thought of for a step of so many rows."""
        rest = self._rest.get(rows, 0)
        self._rest[rows] = max(0, rest - 1)
        return rest > 0

    def used(self, rows: int) -> None:
        """Its drafts are expected to pay."""
        self._refused[rows] = 0

    def refused(self, rows: int) -> None:
        """They are not."""
        refused = self._refused[rows] = self._refused.get(rows, 0) + 1
        self._rest[rows] = min(_RAREST, 1 << min(refused // _REFUSALS, 10)) - 1

    def is_known(self, rows: int, depth: int, *, now: int) -> bool:
        """Whether both were measured more than once and lately."""
        return self._passes.is_known(rows, depth, now=now) and self._rounds.is_known(rows, depth, now=now)

    def deepest(self, rows: int) -> int:
        """The deepest depth of which both were ever measured."""
        return min(self._passes.deepest(rows), self._rounds.deepest(rows))

    def at_least(self, rows: int, depth: int) -> float:
        """What both cost if they cost no more than those that are less deep."""
        return self._passes.at_least(rows, depth) + self._rounds.at_least(rows, depth) - 1.0

    def ratio(self, rows: int, depth: int) -> float:
        """The expected cost of both."""
        return self._passes.ratio(rows, depth) + self._round(rows, depth)

    def figures(self) -> Mapping[str, float]:
        """Rounds since the session began, and what they cost in plain steps."""
        return {"drafting_rounds": self._n, "drafting_steps": self._spent}

    def _round(self, rows: int, count: int) -> float:
        return max(0.0, self._rounds.ratio(rows, count) - 1.0)

    def _enter_plain(self, rows: int, seconds: float, *, now: int) -> None:
        for _ in range(2 if self._rounds.plain(rows) is None else 1):
            self._rounds.took(rows, 0, seconds, now=now)
