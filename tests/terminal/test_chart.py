"""Charts in characters."""

import pytest

from backend.terminal.chart import bar, histogram, milliseconds, spark
from backend.terminal.progress import Step, duration


def test_a_bar_is_as_long_as_its_share_to_an_eighth() -> None:
    assert bar(0.5, 4) == "██"
    assert bar(1 / 32, 4) == "▏"
    assert bar(0, 4) == "" and bar(2, 4) == "████"


def test_a_line_of_heights_goes_up_to_the_highest() -> None:
    assert spark([0, 1, 4, 8]) == "▁▁▄█"
    assert spark([1, 2], 8) == "▁▂"
    assert spark([0, 0]) == "▁▁"


def test_every_value_is_in_one_bin_of_the_histogram() -> None:
    lines = histogram({"a": [0.01, 0.02, 0.5], "b": [0.011]}, width=10, bins=4)
    assert len(lines) == 8
    numbers = [int(line.split()[-1]) for line in lines if line.split()[-1].isdecimal()]
    assert sum(numbers) == 4
    assert lines[0].startswith(" 10.0 ms to ") and "│█" in lines[0]
    assert histogram({"a": []}, width=10) == []
    assert len(histogram({"a": [0.2, 0.2, 0.2]}, width=10)) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00052, "0.52 ms"), (0.0123, "12.3 ms"), (0.5, "500 ms"), (0.9999, "1.00 s"), (1.2, "1.20 s"), (75, "75 s")],
)
def test_times_of_a_request_have_three_digits(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.97, "10 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_to_wait_are_in_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_step_without_a_whole_has_no_share() -> None:
    assert Step(what="a").share is None and Step(what="a").line == "a"
    assert Step(what="a", done=5, total=10).share == 0.5
