"""What came behind a prefix: the longest shared one that goes on, the latest of several, and nothing is touched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_cache import PromptCache
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_consistent

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=10)


def store(*sequences: list[int], layout: str = "plain", key: str = "m", **options) -> PromptCache:
    cache = PromptCache(payload=FakePayload(), block_tokens=4, **options)
    for tokens in sequences:
        put(cache, tokens, layout=layout, key=key)
    return cache


def put(cache: PromptCache, tokens: list[int], *, layout: str = "plain", key: str = "m") -> None:
    assert cache.insert(key, tokens, FakeCache.after(LAYOUTS[layout], key, tokens)).refusal is None


def behind(
    cache: PromptCache, tokens: list[int], most: int = 100, key: str = "m", lead_in: int = 0
) -> list[int] | None:
    found = cache.continuation(key, tokens, most, lead_in=lead_in)
    assert found is None or found.dtype == np.int32
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ([1, 2], [3, 4, 5]),
        ([1, 2, 3, 4], [5]),
        ([1, 2, 9, 9], [3, 4, 5]),
        ([1, 2, 3, 4, 5], None),
        ([1, 2, 3, 4, 5, 6], None),
        ([9], None),
        ([], None),
    ],
)
def test_what_comes_behind_the_shared_prefix_is_given(asked, wanted) -> None:
    assert behind(store([1, 2, 3, 4, 5]), asked) == wanted


def test_it_goes_over_edges_and_is_cut() -> None:
    cache = store([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7])
    assert behind(cache, [1, 2]) == [3, 4, 5, 6, 7]
    for most in range(1, 6):
        assert behind(cache, [1, 2], most) == [3, 4, 5, 6, 7][:most]


def test_it_begins_with_shared_tokens_where_those_are_wanted() -> None:
    cache = store([1, 2, 3, 4, 5])
    assert behind(cache, [1, 2, 3], lead_in=2) == [2, 3, 4, 5]
    assert behind(cache, [1, 2, 8, 8], lead_in=5) == [1, 2, 3, 4, 5]


def test_of_several_ways_the_one_used_last_is_taken() -> None:
    cache = store([1, 2, 3, 3], [1, 2, 4, 4], [1, 2, 5, 5])
    assert behind(cache, [1, 2]) == [5, 5]
    cache.fetch("m", [1, 2, 4, 4, 0])
    assert behind(cache, [1, 2]) == [4, 4]
    put(cache, [1, 2, 3, 3])
    assert behind(cache, [1, 2]) == [3, 3]


def test_a_longer_shared_prefix_wins_over_a_later_use() -> None:
    cache = store([1, 2, 3, 4])
    put(cache, [1, 2, 9, 9], layout="hybrid")
    assert behind(cache, [1, 2, 3]) == [4]
    assert behind(cache, [1, 2]) == [9, 9]


def test_namespaces_do_not_see_each_other() -> None:
    cache = store([1, 2, 3], key="theirs")
    assert behind(cache, [1, 2], key="ours") is None
    assert behind(cache, [1, 2], key="theirs") == [3]
    cache.clear("theirs")
    assert behind(cache, [1, 2], key="theirs") is None


def test_asking_touches_nothing_that_evicts() -> None:
    cache = store([1, 1, 1, 1], [2, 2, 2, 2], max_size=2)
    before = cache.stats()
    assert behind(cache, [1, 1]) == [1, 1]
    assert cache.stats() == before
    put(cache, [3, 3, 3, 3])
    assert behind(cache, [1, 1]) is None, "it was still the one used least lately"
    assert behind(cache, [2, 2]) == [2, 2]


@given(st.lists(TOKENS, max_size=6), TOKENS, st.integers(1, 12), st.integers(0, 4))
def test_any_answer_is_a_stored_sequence_that_shares_most(sequences, asked, most, lead_in) -> None:
    cache = store(*sequences)
    found = behind(cache, asked, most, lead_in=lead_in)

    def agreeing(sequence: list[int]) -> int:
        return next((i for i, pair in enumerate(zip(asked, sequence, strict=False)) if pair[0] != pair[1]),
                    min(len(asked), len(sequence)))  # fmt: skip

    agreed = max(map(agreeing, sequences), default=0)
    going_on = [one for one in sequences if agreeing(one) == agreed < len(one)] if agreed else []
    start = max(0, agreed - lead_in)
    assert (found is None) == (not going_on)
    assert found is None or any(
        found == one[start : agreed + most] for one in going_on if is_leaf(one, sequences, most)
    )
    check_consistent(cache)


def is_leaf(one: list[int], sequences: list[list[int]], most: int) -> bool:
    """Whether nothing stored goes on behind it, so that a walk can end there."""
    return not any(other[: len(one)] == one and len(other) > len(one) for other in sequences) or len(one) > most
