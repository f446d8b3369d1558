"""Patterns of ranges match the numbers in them, and no other text."""

import random
import re

import pytest

from backend.output.calls.number_ranges import bounded_pattern, range_pattern


@pytest.mark.parametrize("seed", range(20))
def test_a_range_has_its_whole_numbers_and_no_others(seed: int):
    rng = random.Random(seed)
    low, high = sorted(rng.randrange(-(10**n), 10**n) for n in (rng.randrange(1, 5), rng.randrange(1, 5)))
    pattern = re.compile(range_pattern(low, high))
    for number in {*range(-300, 300), low - 1, low, low + 1, high - 1, high, high + 1, -9999, 9999}:
        assert bool(pattern.fullmatch(str(number))) is (low <= number <= high), (low, number, high)
    assert not pattern.fullmatch("")
    assert not pattern.fullmatch("-0")
    assert not pattern.fullmatch("00")


@pytest.mark.parametrize(
    ("schema", "texts", "others"),
    [
        ({"minimum": 3, "maximum": 12}, ["3", "12"], ["2", "13", "7.5"]),
        ({"minimum": -0.5, "exclusiveMaximum": 2}, ["0", "1"], ["-1", "2"]),
        ({"exclusiveMinimum": 1.5}, ["2", "123456789"], ["1", "-3"]),
        ({"maximum": -7}, ["-7", "-99"], ["-6", "0"]),
    ],
)
def test_the_bounds_of_a_schema_are_kept(schema: dict[str, float], texts: list[str], others: list[str]):
    pattern = bounded_pattern(schema)
    assert pattern is not None
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert not any(re.fullmatch(pattern, text) for text in others)


@pytest.mark.parametrize("schema", [{"minimum": 3, "maximum": 2}, {"multipleOf": 3}, {"minimum": 0.2, "maximum": 0.8}])
def test_what_no_pattern_says_has_none(schema: dict[str, float]):
    assert bounded_pattern(schema) is None
