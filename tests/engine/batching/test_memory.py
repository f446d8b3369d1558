"""The KV budget: what is projected, and what has to give way."""

import pytest

from backend.engine.batching.memory import BLOCK_TOKENS, MemoryBudget, copied_share
from backend.engine.loading.kv_cost import KVCost, Window


def test_a_prompt_is_projected_with_one_block_of_growth_and_no_more() -> None:
    budget = MemoryBudget(total=10**9, cost=KVCost(per_token=100, fixed=7))
    assert budget.projected(BLOCK_TOKENS - 1) == 2 * BLOCK_TOKENS * 100 + 7
    assert budget.projected(BLOCK_TOKENS) == 3 * BLOCK_TOKENS * 100 + 7


def test_rows_apart_add_up_and_rows_together_are_as_long_as_the_longest() -> None:
    budget = MemoryBudget(total=10**9, cost=KVCost(per_token=1, fixed=7))
    assert budget.apart([10, 2000]) == budget.projected(10) + budget.projected(2000)
    assert budget.together([10, 2000]) == 2 * budget.projected(2000)
    assert budget.apart([]) == budget.together([]) == 0


@pytest.mark.parametrize(("lengths", "joining"), [([], 100), ([2000], 100), ([100, 700], 2000), ([300], 300)])
def test_padding_is_what_being_together_takes_beyond_being_apart(lengths: list[int], joining: int) -> None:
    budget = MemoryBudget(total=10**9, cost=KVCost(per_token=3, windows=(Window(512, 0, 5),), fixed=7))
    apart = budget.together(lengths) + budget.projected(joining)
    assert budget.padding(lengths, joining) == budget.together([*lengths, joining]) - apart >= 0


def test_rows_that_hold_numbers_at_first_are_projected_with_the_most_that_they_take_on_their_way() -> None:
    cost = KVCost(per_token=1, full_below=1000, full_per_token=4, fixed=7)
    assert [cost.bytes_for(tokens) - 7 for tokens in (10, 1000, 2000, 4000, 5000)] == [40, 4000, 4000, 4000, 5000]
    assert (cost.most_per_token, KVCost(per_token=3).most_per_token) == (4, 3)


def test_the_cache_gets_what_live_rows_leave_and_never_less_than_nothing() -> None:
    budget = MemoryBudget(total=1000, cost=KVCost(per_token=1))
    assert budget.room_for_cache(300) == 700
    assert budget.room_for_cache(3000) == 0
    assert budget.fits(1000) and not budget.fits(1001)


def test_room_is_kept_for_what_exists_twice_while_a_batch_is_copied() -> None:
    assert [copied_share(layers) for layers in (0, 1, 10, 40)] == [1.0, 1.0, 1.0, 0.25]
    budget = MemoryBudget(total=1000, cost=KVCost(per_token=1), copied=0.25)
    assert budget.most == 800 and budget.fits(800) and not budget.fits(801)
    assert budget.room_for_cache(800) == 0
    assert budget.room_for_cache(400) == 500
    assert budget.room_for_cache(0) == 1000
    assert str(budget.with_copies(budget.projected(700))) in budget.refusal(700)


@pytest.mark.parametrize("copied", [0.0, 0.1, 0.3, 1.0])
def test_rows_that_fit_leave_room_for_their_copies(copied: float) -> None:
    for total in range(1, 2000, 7):
        budget = MemoryBudget(total=total, cost=KVCost(per_token=1), copied=copied)
        assert budget.with_copies(budget.most) <= total + 1


def test_a_refusal_names_the_sums() -> None:
    budget = MemoryBudget(total=1000, cost=KVCost(per_token=3, fixed=5))
    text = budget.refusal(700)
    assert all(str(part) in text for part in (700, budget.projected(700), 1000))


def test_a_row_that_was_sent_back_returns_when_the_others_can_grow_too() -> None:
    cost = KVCost(per_token=2)
    beside = 3 * MemoryBudget(total=0, cost=cost).projected(700)
    exact = beside + MemoryBudget(total=0, cost=cost).projected(700)
    for extra, returns in ((0, False), (3 * BLOCK_TOKENS * 2 - 1, False), (3 * BLOCK_TOKENS * 2, True)):
        budget = MemoryBudget(total=exact + extra, cost=cost)
        assert budget.admits(700, beside=beside, rows=3, returning=False)
        assert budget.admits(700, beside=beside, rows=3, returning=True) is returns
    alone = MemoryBudget(total=exact - beside, cost=cost)
    assert alone.admits(700, beside=0, rows=0, returning=True)
