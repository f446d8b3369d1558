"""Counts by size."""

import bisect
import itertools

from hypothesis import given
from hypothesis import strategies as st

from backend.core.histogram import FIRST_TOKEN_SECONDS, REQUEST_SECONDS, TOKEN_SECONDS, TOKENS, Histogram

BOUNDS = (1.0, 2.0, 5.0)


@given(st.lists(st.integers(0, 8)))
def test_each_value_is_in_the_first_range_whose_bound_it_is_not_above(values: list[int]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    expected = [sum(low < value <= high for value in values) for low, high in ranges()]
    assert (histogram.counts, histogram.count, histogram.total) == (expected, len(values), sum(values))


def ranges() -> list[tuple[float, float]]:
    edges = (float("-inf"), *BOUNDS, float("inf"))
    return list(itertools.pairwise(edges))


def test_a_copy_does_not_change_with_what_it_was_made_of() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(1)
    copy = histogram.copy()
    histogram.observe(9)
    assert (copy.counts, copy.total) == ([1, 0, 0, 0], 1.0)


def test_the_bounds_ascend() -> None:
    for bounds in (FIRST_TOKEN_SECONDS, TOKEN_SECONDS, REQUEST_SECONDS, TOKENS):
        assert all(bisect.bisect_left(bounds, bound) == index for index, bound in enumerate(bounds))
