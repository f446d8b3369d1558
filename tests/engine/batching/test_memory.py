"""The KV budget: what is projected, and what has to give way."""

from backend.engine.batching.memory import BLOCK_TOKENS, MemoryBudget
from backend.engine.loading.kv_cost import KVCost


def test_a_prompt_is_projected_with_one_block_of_growth_and_no_more() -> None:
    budget = MemoryBudget(total=10**9, cost=KVCost(per_token=100, fixed=7))
    assert budget.projected(BLOCK_TOKENS - 1) == 2 * BLOCK_TOKENS * 100 + 7
    assert budget.projected(BLOCK_TOKENS) == 3 * BLOCK_TOKENS * 100 + 7


def test_rows_add_up() -> None:
    budget = MemoryBudget(total=10**9, cost=KVCost(per_token=1))
    assert budget.joined([10, 2000]) == budget.projected(10) + budget.projected(2000)
    assert budget.joined([]) == 0


def test_the_cache_gets_what_live_rows_leave_and_never_less_than_nothing() -> None:
    budget = MemoryBudget(total=1000, cost=KVCost(per_token=1))
    assert budget.room_for_cache(300) == 700
    assert budget.room_for_cache(3000) == 0
    assert budget.fits(1000) and not budget.fits(1001)


def test_a_refusal_names_the_sums() -> None:
    budget = MemoryBudget(total=1000, cost=KVCost(per_token=3, fixed=5))
    text = budget.refusal(700)
    assert all(str(part) in text for part in (700, budget.projected(700), 1000))
