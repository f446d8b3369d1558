"""The rate of streams that run together, from when their clients knew how many tokens."""

import pytest

from backend.check.asking import Asked, NotMeasured, tokens_a_second


def stream(began: float, step: float, tokens: int, *, every: int = 1) -> Asked:
    """A stream whose tokens come evenly, seen `every` so many."""
    points = [(began + step * count, count) for count in range(1, tokens + 1) if count % every == 0 or count == tokens]
    return Asked(began=began, points=points)


def test_one_stream_is_counted_from_its_first_token_to_its_last() -> None:
    assert tokens_a_second([stream(5.0, 0.1, 50)]) == pytest.approx(10.0)


def test_several_are_counted_while_all_of_them_decode() -> None:
    # The first has the device for itself at the beginning, and the last at the end: neither counts.
    streams = [stream(0.0, 0.1, 60), stream(2.0, 0.1, 60)]
    assert tokens_a_second(streams) == pytest.approx(20.0)


def test_tokens_that_are_seen_together_are_spread_between() -> None:
    assert tokens_a_second([stream(0.0, 0.1, 60), stream(0.05, 0.1, 60, every=4)]) == pytest.approx(20.0, rel=0.02)


def test_answers_that_end_too_soon_have_no_rate() -> None:
    with pytest.raises(NotMeasured, match="too soon"):
        tokens_a_second([stream(0.0, 0.1, 5)])
    with pytest.raises(NotMeasured, match="too soon"):
        tokens_a_second([stream(0.0, 0.1, 20), stream(5.0, 0.1, 20)])
