"""What a section may take of the time."""

from backend.check.section import Allowance


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(seconds: float | None, round_s: float, *, least: int, most: int) -> int:
    clock, count = Clock(), 0
    for _ in Allowance(seconds, clock).rounds(least, most):
        clock.now += round_s
        count += 1
    return count


def test_without_a_bound_all_rounds_run() -> None:
    assert counted(None, 1e6, least=1, most=5) == 5


def test_rounds_run_while_one_more_fits() -> None:
    assert counted(10.0, 3.0, least=1, most=9) == 3


def test_the_least_run_whatever_they_take() -> None:
    assert counted(1.0, 3.0, least=2, most=9) == 2


def test_the_longest_round_says_what_another_would_take() -> None:
    clock, rounds = Clock(), []
    for index in Allowance(10.0, clock).rounds(1, 9):
        clock.now += 5.0 if index == 0 else 1.0
        rounds.append(index)
    assert rounds == [0, 1]


def test_parts_share_the_seconds() -> None:
    assert Allowance(8.0).part(4) == 2.0
    assert Allowance(None).part(4) == float("inf")


def test_what_takes_three_times_its_seconds_is_overdrawn() -> None:
    clock = Clock()
    allowance = Allowance(2.0, clock)
    clock.now += 5.9
    assert not allowance.overdrawn
    clock.now += 0.2
    assert allowance.overdrawn
    assert not Allowance(None, clock).overdrawn
