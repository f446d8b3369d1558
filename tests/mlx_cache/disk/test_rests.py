"""A read that leaves others their share of the machine: how long it rests, and when it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_cache.disk.rests import Rests
from tests.mlx_cache.disk.parts import FaultySystem, template, tier
from tests.mlx_cache.disk.test_tier import TEXT, stored


class Work:
    """A thread's processor time, and its rests."""

    def __init__(self, share: float) -> None:
        self.share, self.seconds, self.rested = share, 0.0, list[float]()
        self.rests = Rests(lambda: self.share, worked=lambda: self.seconds, sleep=self.rested.append)

    def work(self, seconds: float, beside: float = 0.0) -> float:
        """The rest after so much work; 0 for none."""
        before = len(self.rested)
        self.seconds += seconds
        self.rests.rest(beside)
        return sum(self.rested[before:])


def test_rests_are_long_enough_for_the_share_that_is_asked_for_now() -> None:
    work = Work(0.25)
    assert work.work(0.002) == pytest.approx(0.006)
    assert work.work(0.001, beside=0.01) == pytest.approx(0.033)
    work.share = 1.0
    assert work.work(5.0) == 0 and len(work.rested) == 2
    work.share = 0.5
    assert work.work(0.003) == pytest.approx(0.003)
    assert work.work(5.0) == pytest.approx(0.25)


def test_a_read_rests_after_each_piece_while_others_work_and_goes_on_when_they_do_not(tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT)
    asked: list[float] = []

    def read(*shares: float) -> int:
        """Rests of a read whose share is first these, then the last of them."""
        system, left = FaultySystem(), list(shares)

        def share() -> float:
            asked.append(left[0])
            return left.pop(0) if len(left) > 1 else left[0]

        disk = tier(tmp_path / "kv", system=system)
        assert disk.read("m", [*TEXT, 99], template(), share=share).length == len(TEXT)
        disk.close(10)
        return system.counts.get("sleep", 0)

    # Six files of one piece each, and the caches that they go into.
    assert read(1.0) == 0 and len(asked) == 7
    assert read(0.9) == 7
    assert read(0.9, 0.9, 1.0) == 2
