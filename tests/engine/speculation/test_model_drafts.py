"""What a draft model's guesses are worth: learned from the tokens that are drawn, and paid for by an account."""

import numpy as np
import pytest

from backend.engine.speculation.account import Account
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Drafter, Proposal
from backend.engine.speculation.row_drafts import Experience, RowDrafts

PROMPT = np.arange(3, 20, dtype=np.int32)


def drafts(experience: Experience | None = None, *, draws: bool = False) -> RowDrafts:
    return RowDrafts(PROMPT, kinds=frozenset({Drafter.MODEL}), experience=experience, draws=draws)


def test_guesses_are_proposed_until_one_is_wrong() -> None:
    row = drafts()
    assert row.model is not None and row.propose(4) is None
    row.model.give((5, 6, 7, 8), (0.9, 0.9, 0.9, 0.9))
    proposal = row.propose(3)
    assert proposal is not None and (proposal.tokens, proposal.drafter) == ((5, 6, 7), Drafter.MODEL)
    assert list(proposal.chances) == sorted(proposal.chances, reverse=True)
    row.told(5)
    proposal = row.propose(8)
    assert proposal is not None and proposal.tokens == (6, 7, 8)
    row.told(9)
    assert row.propose(8) is None and not len(row.model)


def test_what_guesses_are_worth_is_learned_by_how_sure_the_model_is_and_how_the_row_draws() -> None:
    known = Experience()
    greedy, drawn = drafts(known), drafts(known, draws=True)
    assert greedy.model is not None and drawn.model is not None
    before = drawn.model.hoped(2)
    for turn in range(60):
        greedy.model.give((5, 6), (0.95, 0.3))
        greedy.told(5)
        greedy.told(6 if turn % 2 else 7)
    greedy.model.give((5, 6), (0.95, 0.3))
    _, chances = greedy.model.draft(2)
    assert chances[0] > 0.95 and 0.3 < chances[1] / chances[0] < 0.7
    assert drawn.model.hoped(2) == before
    assert 0.65 < greedy.model.hoped(1)[0] < 0.85 and greedy.model.hoped(2)[1] == greedy.model.hoped(1)[0] ** 2
    # A row to come begins with what this one has learned.
    another = drafts(known)
    assert another.model is not None and another.model.hoped(1)[0] == pytest.approx(0.75, abs=0.1)


def test_what_is_not_asked_any_more_is_forgotten() -> None:
    known = Experience()
    row = drafts(known)
    assert row.model is not None
    for _ in range(200):
        row.model.give((5,), (0.5,))
        row.told(6)
    worst = known.any_model.of[0]
    assert worst < 0.05
    for _ in range(400):
        known.passed_over()
    assert 0.4 < known.any_model.of[0] < 0.6


def test_a_draft_that_is_no_number_is_no_draft_worth_looking_at() -> None:
    row = drafts()
    assert row.model is not None
    row.model.give((5,), (float("nan"),))
    assert row.model.draft(1)[1][0] <= 0.1


def proposal(*chances: float) -> Proposal:
    return Proposal(tuple(range(len(chances))), Drafter.TEXT, chances)


def calibrated(draft_s: float, *, plain: float = 0.01, verify: float = 0.05, rows: int = 1) -> Depths:
    """A machine where a drafted token costs `draft_s` seconds to draft and `verify` of a step to look at."""
    depths = Depths(8, credit=8.0)
    depths.calibrated(rows, 0, plain)
    for depth in depths.options:
        depths.calibrated(rows, depth, plain * (1 + verify * depth))
    depths.drafting.calibrated(plain, {n: (draft_s * n, draft_s * n) for n in (1, 4)})
    for count in depths.options:
        for _ in range(2):
            depths.drafted(rows, count, draft_s * count)
    depths.drafting.take_due()
    return depths


def hoped(chance: float) -> tuple[float, ...]:
    return tuple(chance**n for n in range(1, 9))


@pytest.mark.parametrize(
    ("chance", "share", "least", "most"),
    [(0.9, 0.05, 6, 8), (0.7, 0.1, 2, 4), (0.3, 0.05, 1, 2), (0.3, 0.5, 0, 0), (0.9, 1.0, 0, 0)],
)
def test_the_depth_is_that_of_most_tokens_for_what_drafting_and_looking_cost(
    chance: float, share: float, least: int, most: int
) -> None:
    """The depth that Leviathan et al. (2023) give: the most of (1 - a^(k+1)) / (1 - a) over 1 + k (c + v)."""
    depths = calibrated(share * 0.01)
    count, value = depths.choose_drafting([None], [hoped(chance)])
    assert least <= count <= most and (value > 0) == (count > 0)
    speed = {k: (1 - chance ** (k + 1)) / (1 - chance) / (1 + k * (share + 0.05)) for k in (0, *depths.options)}
    assert speed[count] == pytest.approx(max(speed.values()), rel=0.03)


def test_guesses_that_cost_nothing_come_first() -> None:
    depths = calibrated(0.0005)
    assert depths.choose_drafting([proposal(*hoped(0.95))], [hoped(0.9)]) == (0, 0.0)
    assert depths.choose_drafting([proposal(*hoped(0.5))], [hoped(0.9)])[0] > 0
    assert depths.choose_drafting([None], [()]) == (0, 0.0)


def test_a_row_that_guesses_nothing_is_not_taken_along_by_one_that_drafts_a_little() -> None:
    depths = calibrated(0.005, rows=4)
    nothing: list[Proposal | None] = [None] * 4
    assert depths.choose_drafting(nothing, [hoped(0.8), (), (), ()]) == (0, 0.0)
    assert depths.choose_drafting(nothing, [hoped(0.95)] * 4)[0] > 0


def test_what_drafting_costs_is_taken_from_the_account_whatever_comes_of_it() -> None:
    for depth, tokens, left in ((0, 1, -0.3), (4, 1, -0.5), (4, 5, 3.5)):
        depths = calibrated(0.001)
        before, spent = depths.figures()["account"], depths.drafting_figures()["drafting_steps"]
        depths.drafted(1, 3, 0.003)
        depths.took(1, depth, 0.01 * (1 + 0.05 * depth), tokens)
        assert depths.figures()["account"] - before == pytest.approx(left, abs=0.05)
        assert depths.drafting_figures()["drafting_steps"] - spent == pytest.approx(0.3, abs=0.01)
        depths.took(1, 0, 0.01, 1)
        assert depths.figures()["account"] - before == pytest.approx(left, abs=0.06)


def test_what_is_read_for_passes_to_come_is_a_debt_that_they_pay_back() -> None:
    account = Account(2.0)
    assert account.may_invest(6.0) and not account.may_invest(6.1)
    account.invested(5.0)
    assert not account.may_invest(1.5) and account.affords(1.0)
    account.passed(worth=3.0, cost=1.0)
    assert (account.debt, account.balance) == (4.0, 3.0)
    account.passed(worth=1.0, cost=5.0)
    assert (account.debt, account.balance) == (4.0, -1.0) and not account.may_invest(0.0)
    for _ in range(2000):
        account.plain()
    assert account.debt < 0.1 and account.balance >= 3.0


def test_never_right_drafts_cost_no_more_than_was_lent_and_a_little_of_each_step() -> None:
    """Whatever they promise."""
    depths, drawn = calibrated(0.003), np.random.default_rng(1)
    seconds = 0.0
    steps = 3000
    for _ in range(steps):
        count, _ = depths.choose_drafting([None], [hoped(0.9)])
        if count:
            spent = 0.003 * count * drawn.uniform(0.95, 1.05)
            depths.drafted(1, count, spent)
            seconds += spent
        depth = depths.choose([proposal(*hoped(0.9)[:count])]) if count else 0
        taken = 0.01 * (1 + 0.05 * depth) * drawn.uniform(0.98, 1.02)
        depths.took(1, depth, taken, 1)
        seconds += taken
    lost = seconds / 0.01 - steps
    assert 0 < lost < 3.5 * 8.0 + 0.012 * steps
