"""How many layers fit a time: learned from those before, for chunks of about the same size."""

from hypothesis import given
from hypothesis import strategies as st

from backend.engine.batching.pace import ALONE, Pace


def test_the_first_slice_is_one_layer_and_the_next_as_many_as_fit() -> None:
    pace = Pace(0.1)
    assert pace.layers(512, pace.bound(streams=True), left=32) == 1
    pace.took(512, 1, 0.02)
    assert pace.layers(512, pace.bound(streams=True), left=32) == 5
    assert pace.layers(512, pace.bound(streams=True), left=3) == 3
    assert pace.layers(512, pace.bound(streams=False), left=32) == 5 * ALONE


def test_a_layer_that_is_longer_than_the_time_does_not_fit() -> None:
    pace = Pace(0.1)
    pace.took(512, 2, 1.0)
    assert pace.layers(512, 0.1, left=8) == 0


def test_a_short_chunk_says_nothing_of_a_long_one() -> None:
    pace = Pace(0.1)
    pace.took(4, 1, 0.001)
    assert pace.layers(512, 0.1, left=8) == 1


def test_a_clock_that_stands_still_lets_all_layers_run() -> None:
    pace = Pace(0.1)
    pace.took(512, 1, 0.0)
    assert pace.layers(512, 0.1, left=8) == 8


@given(st.lists(st.floats(0.001, 0.01), min_size=1, max_size=20), st.floats(0.001, 1.0), st.integers(1, 100))
def test_what_fits_is_within_the_time_of_the_slowest_and_the_fastest(
    took: list[float], seconds: float, left: int
) -> None:
    pace = Pace(seconds)
    for one in took:
        pace.took(100, 1, one)
    layers = pace.layers(100, seconds, left=left)
    assert min(left, int(seconds / max(took))) <= layers <= min(left, seconds / min(took) + 1)


def test_one_slow_time_is_forgotten_soon() -> None:
    pace = Pace(0.1)
    pace.took(512, 1, 2.0)
    for _ in range(8):
        pace.took(512, 1, 0.02)
    assert pace.layers(512, 0.1, left=32) >= 3
