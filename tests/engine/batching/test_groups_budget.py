"""What is projected for rows is never less than what their batches take, however they come and go."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.engine.batching.group_cost import PaddingBounds
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.memory import BLOCK_TOKENS, MemoryBudget
from backend.engine.loading.kv_cost import KVCost, Window
from tests import chosen

COST = KVCost(per_token=4, windows=(Window(512, 0, 2),), fixed=64)
TOTAL = COST.bytes_for(40_000)


class CountedBatch:
    """Rows of a batch, and the most bytes that mlx-lm's caches take for them: the longest and a block, each."""

    can_part = True

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def view(self, row: Any) -> Any:
        return row

    def __len__(self) -> int:
        return len(self.rows)

    def real(self) -> int:
        """Bytes, as allocated."""
        return len(self.rows) * COST.bytes_for(max(row.covered for row in self.rows) + BLOCK_TOKENS)


ODD = 100


class PickyBatch(CountedBatch):
    """One that takes a row of `ODD` tokens by itself only."""

    def join(self, rows: list[Any]) -> None:
        if self.rows and ODD in [row.covered for row in (*self.rows, *rows)]:
            raise ValueError("shapes")
        self.rows.extend(rows)


class Prompt:
    """A row as far as its length goes."""

    def __init__(self, tokens: int) -> None:
        self.covered = tokens
        self.caches: Any = None
        self.request: Any = SimpleNamespace(request_id="r")


class Rows:
    """The session's bookkeeping of bytes: admission, joins, steps and ends."""

    def __init__(self) -> None:
        self.budget = MemoryBudget(total=TOTAL, cost=COST)
        self.prefilling: list[Prompt] = []
        bounds = PaddingBounds(group=TOTAL // 32, total=TOTAL)
        self.groups: Any = DecodeGroups(CountedBatch, self.budget, bounds, spare=self.spare)  # type: ignore[arg-type]

    def projected(self) -> int:
        return self.groups.projected() + self.budget.apart(row.covered for row in self.prefilling)

    def spare(self) -> int:
        return self.budget.total - self.projected()

    def admit(self, tokens: int) -> None:
        if self.budget.fits(self.projected() + self.budget.projected(tokens)):
            self.prefilling.append(Prompt(tokens))

    def join(self, count: int) -> None:
        ready, self.prefilling = self.prefilling[:count], self.prefilling[count:]
        self.join_rows(ready)

    def join_rows(self, rows: list[Prompt]) -> None:
        for batch, members in self.groups.plan_join(rows):
            batch.rows.extend(members)

    def leave(self, index: int) -> None:
        rows = [row for batch in self.groups.batches for row in batch.rows]
        for batch in self.groups.batches:
            batch.rows = [row for row in batch.rows if row is not rows[index % len(rows)]]
        self.groups.drop_empty()

    def merge(self) -> bool:
        batch = self.groups.plan_merge()
        if batch is None:
            return False
        self.join_rows(self.groups.dissolve(batch))
        return True

    def real(self) -> int:
        return sum(batch.real() for batch in self.groups.batches)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(1, 20_000)),
        st.tuples(st.just("join"), st.integers(1, 4)),
        st.tuples(st.just("step"), st.integers(1, 300)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("merge"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300 if chosen.thorough else 100)
@given(EVENTS)
def test_no_history_of_joins_takes_more_than_was_projected(events: Sequence[tuple[str, int]]) -> None:
    rows = Rows()
    for kind, amount in events:
        before = rows.projected()
        match kind:
            case "admit":
                rows.admit(amount)
                assert rows.projected() <= max(before, TOTAL)
            case "join":
                rows.join(amount)
                # Padding is taken from what is spare: it never takes the rows over their budget.
                assert rows.projected() <= max(before, TOTAL)
            case "step":
                for batch in rows.groups.batches:
                    for row in batch.rows:
                        row.covered += amount
            case "merge":
                count = len(rows.groups.batches)
                merged = rows.merge()
                assert len(rows.groups.batches) == count - merged
                assert rows.projected() <= max(before, TOTAL)
            case _ if rows.groups.batches:
                rows.leave(amount)
                assert rows.projected() <= before
            case _:
                continue
        assert rows.real() <= rows.projected()


def test_one_long_row_and_many_that_are_nearly_as_long_stay_within_a_budget_that_has_no_room_for_padding() -> None:
    rows = Rows()
    for tokens in (8000, *[6900] * 4):
        rows.admit(tokens)
    assert len(rows.prefilling) == 5
    for _ in range(5):
        rows.join(1)
    assert rows.real() <= TOTAL
    assert len(rows.groups.batches) == 2


def test_padding_that_is_cheaper_than_a_group_is_not_taken_where_nothing_is_spare() -> None:
    rows = Rows()
    for tokens in (12_000, 11_600, 7_500, 6_400):
        rows.admit(tokens)
    assert len(rows.prefilling) == 4 and rows.spare() < COST.per_token * 100 < TOTAL // 32
    for _ in range(4):
        rows.join(1)
        assert rows.projected() <= TOTAL
    assert len(rows.groups.batches) == 4


def test_groups_are_one_again_when_the_longest_row_has_left_and_not_before() -> None:
    rows = Rows()
    bound = TOTAL // 32 // COST.per_token
    longest = 6000
    for tokens in (longest, longest - bound + 10, longest - bound - 10):
        rows.admit(tokens)
        rows.join(1)
    assert [len(batch.rows) for batch in rows.groups.batches] == [2, 1]
    assert not rows.merge()
    rows.leave(0)
    assert rows.merge()
    assert [len(batch.rows) for batch in rows.groups.batches] == [2]


def test_groups_that_are_not_much_more_alike_than_what_parts_rows_stay_apart() -> None:
    rows = Rows()
    bound = TOTAL // 32 // COST.per_token
    for tokens in (6000, 6000 - bound - 10):
        rows.admit(tokens)
        rows.join(1)
    for shorter in rows.groups.batches[1].rows:
        shorter.covered += bound // 3
    assert len(rows.groups.batches) == 2 and not rows.merge()
    for shorter in rows.groups.batches[1].rows:
        shorter.covered += bound // 3
    assert rows.merge()


def test_a_row_that_goes_with_no_other_draws_none_to_it_and_is_forgotten_when_it_is_lost() -> None:
    budget = MemoryBudget(total=TOTAL, cost=KVCost(per_token=4, windows=(), fixed=0))
    bounds = PaddingBounds(group=TOTAL, total=TOTAL)
    groups: Any = DecodeGroups(PickyBatch, budget, bounds, spare=lambda: TOTAL)  # type: ignore[arg-type]
    assert groups.join([Prompt(1000)]) == groups.join([Prompt(ODD)]) == []
    for tokens in (ODD + 1, ODD + 2, ODD + 3):
        assert groups.join([Prompt(tokens)]) == []
    assert sorted(len(batch) for batch in groups.batches) == [1, 4]
    (loner,) = groups._loners
    groups.lose(loner)
    assert groups._loners == []


def test_what_rows_waste_together_opens_a_group_though_no_one_of_them_does_alone() -> None:
    budget = MemoryBudget(total=TOTAL, cost=KVCost(per_token=4, windows=(), fixed=0))
    bounds = PaddingBounds(group=4 * 1000 * 4, total=TOTAL)
    groups: Any = DecodeGroups(CountedBatch, budget, bounds, spare=lambda: TOTAL)  # type: ignore[arg-type]
    for tokens in (1100, *[100] * 7):
        for batch, members in groups.plan_join([Prompt(tokens)]):
            batch.rows.extend(members)
    assert [len(batch) for batch in groups.batches] == [5, 3]


def test_rows_on_both_sides_of_the_length_from_which_on_they_hold_codes_are_never_together() -> None:
    bounds = PaddingBounds(group=TOTAL, total=TOTAL)
    groups = DecodeGroups(
        CountedBatch,  # type: ignore[arg-type]
        MemoryBudget(total=TOTAL, cost=COST),
        bounds,
        spare=lambda: TOTAL,
        is_codes=lambda covered: covered >= ODD + 50,
    )
    for batch, rows in groups.plan_join([Prompt(ODD + more) for more in (49, 50, 51, 48)]):  # type: ignore[misc]
        batch.rows.extend(rows)
    assert sorted(sorted(row.covered for row in batch.rows) for batch in groups.batches) == [[148, 149], [150, 151]]
    assert groups.plan_merge() is None
