"""The choice of depth over machines and texts that are made up: what it wins, and what it can lose."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from backend.engine.speculation.account import Account
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.pass_costs import PassCosts
from backend.engine.speculation.proposal import Drafter, Proposal

PLAIN_S = 0.01

Cost = Callable[[int], float]
Chance = Callable[[float], float]
"""Of a drafted token, after so many tokens of the answer."""


def flat(depth: int) -> float:
    """A batch of one, bound by the memory."""
    return 1 + 0.0125 * depth


def half(depth: int) -> float:
    """A batch of eight."""
    return 1 + 0.17 * depth


def jump(depth: int) -> float:
    """A pipeline that has to be drained."""
    return 1.4 + 0.01 * depth if depth else 1.0


def linear(depth: int) -> float:
    """Bound by arithmetic."""
    return 1 + 0.86 * depth


@dataclass
class Machine:
    """Rows whose drafts are right with a chance, on a machine with a cost of passes; times have noise and outliers."""

    cost: Cost
    right: Chance
    promised: Chance
    rows: int = 1
    depths: Depths = field(default_factory=lambda: Depths(8))
    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    used: list[int] = field(default_factory=list)

    def run(self, steps: int, seed: int = 0) -> "Machine":
        drawn = np.random.default_rng(seed)
        for _ in range(steps):
            place = self.tokens / self.rows
            depth = self._depth(self.promised(place))
            right = drawn.random((self.rows, depth)) < self.right(place) if depth else np.zeros((self.rows, 1))
            tokens = self.rows + int(np.cumprod(right, axis=1).sum())
            seconds = PLAIN_S * self.cost(depth)
            seen = max(0.5, drawn.normal(1, 0.05)) * (5 if drawn.random() < 0.005 else 1)
            self.depths.took(self.rows, depth, seconds * seen, tokens)
            self.seconds += seconds
            self.tokens += tokens
            self.used.append(depth)
        self.steps += steps
        return self

    def _depth(self, promised: float) -> int:
        most = self.depths.most(self.rows)
        chances = tuple(promised ** (i + 1) for i in range(most))
        proposal = Proposal(tuple(range(most)), Drafter.TEXT, chances) if most and promised else None
        depth = self.depths.choose([proposal] * self.rows)
        assert 0 <= depth <= most
        return depth

    @property
    def speed(self) -> float:
        """Over plain steps alone."""
        return self.tokens / self.rows * PLAIN_S / self.seconds


def always(chance: float) -> Chance:
    return lambda _: chance


def honest(cost: Cost, chance: float, **options) -> Machine:
    return Machine(cost, always(chance), always(chance), **options)


@pytest.mark.parametrize(
    ("cost", "chance", "rows"),
    [(flat, 0.5, 1), (flat, 0.97, 1), (half, 0.5, 1), (half, 0.8, 6), (half, 0.97, 1), (jump, 0.7, 1), (jump, 0.97, 6)],
)
def test_it_comes_near_the_best_fixed_depth(cost, chance, rows) -> None:
    best = max(sum(chance**i for i in range(depth + 1)) / cost(depth) for depth in (0, 1, 2, 3, 4, 6, 8))
    assert honest(cost, chance, rows=rows).run(800, seed=1).speed > 0.95 * best


@pytest.mark.parametrize("promised", [0.15, 0.95])
@pytest.mark.parametrize("cost", [flat, half, jump, linear])
def test_whatever_is_promised_no_more_than_a_hundredth_is_lost(cost, promised) -> None:
    for steps, least in ((300, 0.985), (1200, 0.99)):
        assert Machine(cost, always(0.0), always(promised)).run(steps).speed > least


@pytest.mark.parametrize("chance", [0.15, 0.8])
def test_where_passes_cost_by_the_token_it_stays_with_plain_steps(chance) -> None:
    machine = honest(linear, chance).run(1000)
    assert machine.speed > 0.99
    assert machine.used[-500:].count(0) > 490


def test_rows_are_hardly_asked_where_nothing_pays() -> None:
    machine = honest(linear, 0.5).run(1000)
    asked = 0
    for _ in range(500):
        asked += machine.depths.most(1) > 0
        machine.run(1)
    assert asked <= 20


@pytest.mark.parametrize("cost", [flat, half, jump])
def test_a_copy_after_noise_is_taken_up_within_some_tens_of_tokens(cost) -> None:
    turn = 600
    machine = Machine(cost, lambda n: 0.97 * (n >= turn), lambda n: 0.97 if n >= turn else 0.05).run(turn)
    before = machine.tokens
    while machine.used[-1] < 8:
        machine.run(1)
    assert machine.tokens - before < 80


def test_noise_after_a_copy_costs_little() -> None:
    machine = honest(flat, 0.97).run(1000)
    machine.right = always(0.0)
    spent, steps = machine.seconds, machine.steps
    machine.run(1000, seed=1)
    assert machine.seconds - spent < PLAIN_S * (1000 + 16 + 5 + 4)
    assert machine.steps - steps == 1000


def test_rows_without_a_proposal_count_against_a_pass() -> None:
    depths = Depths(8)
    depths.calibrated(8, 0, 0.01)
    for depth in (1, 2, 4, 8):
        depths.calibrated(8, depth, 0.01 * half(depth))
    proposal = Proposal((1,) * 8, Drafter.TEXT, tuple(0.9**i for i in range(1, 9)))
    assert depths.choose([proposal] * 8) >= 4
    assert depths.choose([proposal, *[None] * 7]) <= 1


def test_one_step_in_64_is_plain() -> None:
    used = honest(flat, 0.97).run(1000).used[100:]
    assert used.count(0) == pytest.approx(900 / 64, abs=1)


def test_nothing_is_looked_at_before_plain_steps_are_known() -> None:
    depths = Depths(8)
    proposal = Proposal((1,), Drafter.TEXT, (0.99,))
    assert depths.choose([proposal]) == 0
    depths.took(1, 0, 0.01, 1)
    assert depths.choose([proposal]) == 0
    depths.took(1, 0, 0.01, 1)
    assert depths.choose([proposal]) == 1


def test_what_was_calibrated_is_not_tried_first() -> None:
    depths = Depths(8)
    depths.calibrated(1, 0, 0.01)
    depths.calibrated(1, 8, 0.011)
    proposal = Proposal((1,) * 8, Drafter.TEXT, tuple(0.9**i for i in range(1, 9)))
    assert depths.choose([proposal]) == 8


def test_no_depth_is_far_beyond_what_is_proposed() -> None:
    depths = Depths(16)
    depths.calibrated(1, 0, 0.01)
    for depth in depths.options:
        depths.calibrated(1, depth, 0.0101 - 0.00001 * depth)
    assert (
        depths.choose(
            [
                Proposal((1,) * 3, Drafter.TEXT, (0.9, 0.9, 0.9)),
            ]
        )
        == 3
    )


@pytest.mark.parametrize(("most", "options"), [(1, (1,)), (5, (1, 2, 3, 4, 5)), (8, (1, 2, 3, 4, 6, 8))])
def test_the_options_end_with_the_limit(most, options) -> None:
    assert Depths(most).options == options


def test_figures_tell_steps_and_what_was_saved() -> None:
    machine = honest(flat, 0.9).run(500)
    figures = machine.depths.figures()
    assert figures["plain_steps"] + figures["passes"] == 500
    assert figures["pass_tokens"] + figures["plain_steps"] == machine.tokens
    saved = machine.tokens - machine.seconds / PLAIN_S
    assert figures["steps_saved"] == pytest.approx(saved, rel=0.05)


def test_costs_between_measured_depths_are_on_the_line() -> None:
    costs = PassCosts()
    for depth, seconds in ((0, 1.0), (2, 1.2), (8, 1.8)):
        for _ in range(2):
            costs.took(4, depth, seconds, now=0)
    assert [costs.ratio(4, depth) for depth in (1, 2, 4, 8, 16)] == pytest.approx([1.1, 1.2, 1.4, 1.8, 2.6])
    assert costs.ratio(5, 4) == pytest.approx(1.4)
    assert costs.at_least(4, 8) == 1.2


def test_one_outlier_changes_no_known_cost() -> None:
    costs = PassCosts()
    for seconds in (1.0, 1.0, 1.0, 30.0):
        costs.took(1, 0, seconds, now=0)
    for seconds in (40.0, 1.5, 1.5, 50.0, 1.5):
        costs.took(1, 4, seconds, now=0)
    assert costs.plain(1) == 1.0
    assert costs.ratio(1, 4) == 1.5


def test_a_cost_that_was_not_measured_for_long_is_tried_again() -> None:
    machine = honest(linear, 0.4).run(300)
    machine.cost = flat
    machine.run(1500)
    assert machine.used[-1000:].count(0) > 950
    machine.run(2500)
    assert machine.used[-500:].count(0) < 100


def test_a_pass_beside_which_the_machine_did_something_else_does_not_end_speculation() -> None:
    machine = honest(flat, 0.97).run(100)
    machine.depths.took(1, 8, 100 * PLAIN_S, 9)
    assert machine.run(100).used[-100:].count(0) < 10


def test_an_account_never_lends() -> None:
    account = Account()
    account.passed(worth=1.0, cost=2.5)
    assert not account.affords(1.01)
    for _ in range(400):
        account.plain()
    assert account.affords(1.5)
    assert not account.affords(100.0)
