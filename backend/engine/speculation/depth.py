"""How many drafted tokens the next pass looks at."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from backend.engine.speculation.account import AT_FIRST, Account
from backend.engine.speculation.drafting_costs import DraftingCosts
from backend.engine.speculation.pass_costs import PassCosts
from backend.engine.speculation.proposal import Proposal

OPTIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# The passes between two plain steps: what a pass costs is told by what those take, and it has to be known the better
# the less a pass wins. `_CERTAIN` is a value from which on it is the most.
_PASSES_IN_A_ROW = (7, 63)
_CERTAIN = 0.3
# A depth that is not known is tried where it might be better by so much.
_WORTH_TRYING = 0.02
# While nothing pays, rows are asked for proposals ever less often, down to one step of so many.
_REFUSALS = 8
_RAREST = 16
_RAREST_WHERE_HOPELESS = 256
_HOPELESS = 0.1
# Passes go on where plain steps seem dearer than they are, and stop where they seem cheaper: errors are no even thing.
_MARGIN = 1.01
# A pass that took more than so many times what was expected was not alone on the machine.
_OUTLIER = 1.5


class Depths:
    """Chooses for all rows of a step together, by measured costs alone. Engine thread only, one a session.

    The depth is the one with the highest mean over rows of log(1 + expected tokens) less the logarithm of what the
    pass costs in plain steps; 0 where none is above 0. What has not been measured is taken to be on the line through
    what has been, and is tried when the account can bear it, at most twice as deep as anything before.

    Args:
        max_draft: The deepest, 1 or more.
        credit: Plain steps that may be lost before anything is earned.
    """

    def __init__(self, max_draft: int, *, credit: float = AT_FIRST) -> None:
        self.options = tuple(sorted({*(depth for depth in OPTIONS if depth < max_draft), max_draft}))
        self._costs = PassCosts()
        self._account = Account(credit)
        self.drafting = DraftingCosts(self._costs)
        self._now = 0
        self._passes_in_a_row: dict[int, int] = {}
        self._refused: dict[int, int] = {}
        self._rest: dict[int, int] = {}
        self._tokens = {"plain": 0, "passes": 0}
        self._steps = {"plain": 0, "passes": 0}
        self._saved = 0.0

    def most(self, rows: int) -> int:
        """How many tokens each of so many rows should be asked for now; 0: ask none, their next step is a plain one."""
        rest = self._rest.get(rows, 0)
        if rest:
            self._rest[rows] = rest - 1
            return 0
        return self.options[-1]

    def choose(self, proposals: Sequence[Proposal | None]) -> int:
        """The depth of the next pass over these rows, each with what it proposes; 0 is a plain step."""
        rows = len(proposals)
        offered = [proposal.chances for proposal in proposals if proposal is not None]
        if not offered or self._costs.plain(rows) is None:
            return 0
        depth, value = self._best(rows, [(chances,) for chances in offered])
        if depth and self._passes_in_a_row.get(rows, 0) >= _passes_in_a_row(value):
            return 0
        if depth:
            self._refused[rows] = 0
        else:
            self._back_off(rows)
        return depth

    def choose_drafting(
        self, proposals: Sequence[Proposal | None], hoped: Sequence[tuple[float, ...]]
    ) -> tuple[int, float]:
        """How many tokens a model should draft for these rows, and the logarithm of what is expected to be won by it.

        0 where that is no more than what is won without.

        Args:
            proposals: What each row proposes already.
            hoped: For each row the chances of tokens that the model would draft; empty where it drafts none.
        """
        rows = len(proposals)
        if self._costs.plain(rows) is None:
            return 0, 0.0
        free = [(proposal.chances,) if proposal is not None else () for proposal in proposals]
        both = [(*known, chances) if chances else known for known, chances in zip(free, hoped, strict=True)]
        _, least = self._best(rows, list(filter(None, free)))
        depth, value = self._best(rows, list(filter(None, both)), drafts=True)
        if depth and value > least and self._passes_in_a_row.get(rows, 0) < _passes_in_a_row(value):
            return depth, value
        return 0, 0.0

    def drafted(self, rows: int, count: int, seconds: float) -> None:
        """A model has drafted so many tokens for each of so many rows; the next step or pass pays for it."""
        self.drafting.took(rows, count, seconds, now=self._now)

    def invested(self, rows: int, seconds: float) -> None:
        """So many rows waited while a model read what it is to draft from."""
        plain = self._costs.plain(rows)
        if plain:
            self._account.invested(seconds / plain)

    def may_invest(self, rows: int, seconds: float, *, won: float) -> bool:
        """Whether so many rows may wait for that, where it is going to win so many plain steps."""
        plain = self._costs.plain(rows)
        return bool(plain) and seconds / plain <= won and self._account.may_invest(seconds / plain)

    def took(self, rows: int, depth: int, seconds: float, tokens: int) -> None:
        """A pass of this depth over so many rows, or a plain step (0), took so long and gave so many tokens."""
        self._now += 1
        limit = self._dearest(rows, depth)
        ratio = self._costs.took(rows, depth, seconds, now=self._now)
        drafting = self.drafting.take_due()
        self._saved -= drafting
        kind = "passes" if depth else "plain"
        self._steps[kind] += 1
        self._tokens[kind] += tokens
        if depth == 0:
            self._passes_in_a_row[rows] = 0
            self._account.plain()
            self._account.passed(worth=1.0, cost=1.0 + drafting)
            return
        self._passes_in_a_row[rows] = self._passes_in_a_row.get(rows, 0) + 1
        if ratio is not None:
            worth, cost = tokens / rows, min(ratio, limit)
            self._saved += worth - cost
            self._account.passed(worth=worth, cost=(cost + drafting) * _MARGIN)

    def calibrated(self, rows: int, depth: int, seconds: float) -> None:
        """A pass, or a plain step (0), was measured beside all requests: known from now on. Plain ones first."""
        for _ in range(2):
            self._costs.took(rows, depth, seconds, now=self._now)

    def figures(self) -> Mapping[str, float]:
        """Counts of steps and tokens since the session began; what passes saved, and the account, in plain steps."""
        return {
            "plain_steps": self._steps["plain"],
            "passes": self._steps["passes"],
            "pass_tokens": self._tokens["passes"],
            "steps_saved": self._saved,
            "account": self._account.balance,
        }

    def drafting_figures(self) -> Mapping[str, float]:
        """Of the model that drafts: rounds and what they cost, and what it may yet have to win, in plain steps."""
        return {**self.drafting.figures(), "debt": self._account.debt}

    def _dearest(self, rows: int, depth: int) -> float:
        """What a pass is charged at most: a machine that was busy elsewhere must not end speculation."""
        if not depth:
            return 1.0
        expected = _OUTLIER * self._costs.ratio(rows, depth)
        return expected if self._costs.is_known(rows, depth, now=self._now) else max(expected, 1.0 + depth)

    def _back_off(self, rows: int) -> None:
        """Nothing that was proposed pays: ask less often, hardly ever where even perfect drafts would not pay."""
        refused = self._refused[rows] = self._refused.get(rows, 0) + 1
        hopes = (math.log1p(depth) - math.log(self._costs.at_least(rows, depth + 1)) for depth in self.options)
        rarest = _RAREST if max(hopes) > _HOPELESS else _RAREST_WHERE_HOPELESS
        self._rest[rows] = min(rarest, 1 << min(refused // _REFUSALS, 10)) - 1

    def _best(
        self, rows: int, expected: Sequence[Sequence[tuple[float, ...]]], *, drafts: bool = False
    ) -> tuple[int, float]:
        """The depth of the highest value, the logarithm of what is expected to be won, and that; 0 for none above 0.

        Args:
            expected: Of each row that has any, the chances of one draft or more, of which it takes the best.
            drafts: A model has to draft them first.
        """
        account = self._account
        costs = self.drafting if drafts else self._costs
        # Expected tokens of each row for each depth.
        sums = [[list(accumulate(chances)) for chances in row] for row in expected]
        longest = max((len(one) for row in sums for one in row), default=0)
        reach = max(1, 2 * costs.deepest(rows))
        best, best_value, tried, tried_value = 0, math.log(_MARGIN), 0, _WORTH_TRYING
        for depth in self.options if longest else ():
            at = [max(one[depth - 1] if depth <= len(one) else one[-1] for one in row) for row in sums]
            gain = sum(map(math.log1p, at)) / rows
            cost = costs.ratio(rows, depth)
            if costs.is_known(rows, depth, now=self._now):
                value = gain - math.log(cost)
                if value > best_value and account.affords(cost):
                    best, best_value = depth, value
            elif depth <= reach and account.affords(cost, worth=1.0 + sum(at) / rows):
                hoped = gain - math.log(costs.at_least(rows, depth))
                if hoped > tried_value:
                    tried, tried_value = depth, hoped
            if depth >= longest:
                break
        return (tried, tried_value) if tried_value > best_value + _WORTH_TRYING else (best, best_value)


def _passes_in_a_row(value: float) -> int:
    fewest, most = _PASSES_IN_A_ROW
    return fewest + int((most - fewest) * min(1.0, value / _CERTAIN))
