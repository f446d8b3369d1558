"""Quick trials beside long ones, with the time given by the test."""

from hypothesis import example, given
from hypothesis import strategies as st

from backend.grammar.lanes import LaneLimits, Lanes

LIMITS = LaneLimits(quick=2, long=1, quick_s=1.0, waiting=2)


def test_as_many_start_at_once_as_there_is_room_for_and_the_next_when_one_ends() -> None:
    lanes = Lanes(LIMITS)
    for trial in (1, 2, 3):
        lanes.add(trial)
    assert lanes.plan(0.0).start == ((1, False), (2, False))
    lanes.remove(1)
    assert lanes.plan(0.1).start == ((3, False),)


def test_one_that_takes_its_time_moves_over_and_the_next_is_stopped_only_when_others_wait() -> None:
    lanes = Lanes(LIMITS)
    for trial in (1, 2):
        lanes.add(trial)
    lanes.plan(0.0)
    assert lanes.next_change() == 1.0
    assert lanes.plan(1.0).lengthen == (1,)
    assert lanes.next_change() is None
    assert lanes.plan(5.0).stop == ()
    lanes.add(3)
    assert lanes.plan(5.0).start == ((3, False),)  # the place of the first is free
    lanes.add(4)
    plan = lanes.plan(5.1)
    assert (plan.stop, plan.start) == ((2,), ((4, False),))


def test_one_that_was_stopped_starts_again_when_the_long_lane_has_room() -> None:
    lanes = Lanes(LIMITS)
    for trial in (1, 2, 3, 4):
        lanes.add(trial)
    lanes.plan(0.0)
    plan = lanes.plan(1.0)
    assert (plan.lengthen, plan.stop, plan.start) == ((1,), (2,), ((3, False), (4, False)))
    lanes.remove(1)
    assert lanes.plan(1.5).start == ((2, True),)


def test_more_than_may_wait_are_given_up() -> None:
    lanes = Lanes(LIMITS)
    for trial in range(10):
        lanes.add(trial)
    plans = [lanes.plan(float(second)) for second in range(10)]
    assert [trial for plan in plans for trial in plan.lengthen] == [0]
    assert [trial for plan in plans for trial in plan.stop] == [1, 2]
    assert [trial for plan in plans for trial in plan.refuse] == [3, 4, 5, 6, 7]  # the last two keep their places


# At 2.3, less is over since 1.3 than a second.
@example([("wait", 13), ("add", 0), ("wait", 2), ("wait", 8)])
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "wait"]), st.integers(0, 30)), max_size=80))
def test_every_trial_runs_in_one_lane_within_its_room_and_new_ones_wait_for_no_long_one(steps) -> None:
    lanes, now, last = Lanes(LIMITS), 0.0, 0
    running: dict[int, bool] = {}
    owed: set[int] = set()
    for what, number in steps:
        if what == "add":
            last += 1
            lanes.add(last)
            owed.add(last)
        elif what == "remove" and owed:
            gone = sorted(owed)[number % len(owed)]
            lanes.remove(gone)
            owed.discard(gone)
            running.pop(gone, None)
        else:
            now += number / 10
        plan = lanes.plan(now)
        for trial in plan.lengthen:
            assert running[trial] is False
            running[trial] = True
        for trial in (*plan.stop, *plan.refuse):
            assert running.pop(trial) is False
        owed -= set(plan.refuse)
        for trial, long in plan.start:
            assert trial in owed
            assert trial not in running
            running[trial] = long
        assert sum(running.values()) <= LIMITS.long
        assert sum(not long for long in running.values()) <= LIMITS.quick
        change = lanes.next_change()
        assert change is None or change > now  # else its owner would turn round and round
    # However many long ones there are, a new one runs after the quick ones' time.
    lanes.add(last + 1)
    for _ in range(last + 2):
        now += LIMITS.quick_s
        running.update(lanes.plan(now).start)
    assert last + 1 in running
