"""Silence, and the pauses of this process that are no part of it."""

import pytest

from backend.core.silence import LATE_SECONDS, Silence


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def silence_after(clock: Clock, silence: Silence, sign: float | None, *gaps: float) -> float:
    """What the last of these looks, each so long after the one before, finds."""
    found = 0.0
    for gap in gaps:
        clock.now += gap
        found = silence.since(sign)
    return found


def test_silence_grows_with_time_and_ends_with_a_sign() -> None:
    clock = Clock()
    silence = Silence(clock, 1.0)
    assert silence_after(clock, silence, 100.0, 1.0, 1.0, 1.0) == 3.0
    assert silence_after(clock, silence, 102.5, 1.0) == 1.5
    assert silence_after(clock, silence, None, 1.0, 1.0) == 0.0


def test_a_look_that_is_a_little_late_is_no_pause() -> None:
    clock = Clock()
    late = 1.0 + LATE_SECONDS
    assert silence_after(clock, Silence(clock, 1.0), 100.0, late, late) == 2 * late


def test_a_pause_is_no_silence() -> None:
    """What is left of a hang is found after it all the same."""
    clock = Clock()
    silence = Silence(clock, 1.0)
    assert silence_after(clock, silence, 100.0, 1.0, 601.0) == 2.0
    assert silence_after(clock, silence, 100.0, 1.0, 301.0, 1.0) == pytest.approx(5.0)


def test_a_pause_counts_only_from_the_last_sign_on() -> None:
    clock = Clock()
    silence = Silence(clock, 1.0)
    silence_after(clock, silence, 100.0, 1.0)
    # A step that began within the time that was paused, as when the process ran for a moment of it.
    assert silence_after(clock, silence, 160.0, 60.0) == 0.0
    assert silence_after(clock, silence, 160.0, 1.0) == 1.0
