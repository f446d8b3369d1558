"""Who is next, and who leaves for whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backend.core.request import MAX_PRIORITY
from backend.engine.batching.queue import Queue
from backend.engine.batching.standing import MOST_DISPLACED, SECONDS_A_LEVEL, Standing, displaceable


@dataclass(eq=False)
class One:
    """A request as the policy sees it."""

    standing: Standing
    displaced: int = 0


moments = st.floats(0, 1e4)
priorities = st.integers(-MAX_PRIORITY, MAX_PRIORITY)
standings = st.builds(Standing.of, moments, priorities)
ones = st.builds(One, standings, st.integers(0, MOST_DISPLACED))


@given(moments, priorities, moments, priorities)
def test_nobody_waits_for_one_that_came_later_than_its_levels_are_worth(
    came: float, priority: int, later: float, other: int
) -> None:
    mine, theirs = Standing.of(came, priority), Standing.of(later, other)
    if later - came > SECONDS_A_LEVEL * (other - priority) + 1e-6:
        assert mine.place < theirs.place and not theirs.goes_over(mine)


@given(st.lists(standings, min_size=2, max_size=6))
def test_no_circle_of_requests_can_take_each_others_rows(circle: list[Standing]) -> None:
    pairs = zip(circle, [*circle[1:], circle[0]], strict=True)
    assert not all(one.goes_over(other) for one, other in pairs)


@given(st.lists(ones), standings)
def test_only_lower_ones_that_came_later_leave_and_the_last_first(running: list[One], standing: Standing) -> None:
    leaving = displaceable(running, One(standing))
    assert all(one.standing.priority < standing.priority for one in leaving)
    assert all(one.displaced < MOST_DISPLACED and one.standing.place > standing.place for one in leaving)
    places = [one.standing.place for one in leaving]
    assert places == sorted(places, reverse=True)
    stays = [one for one in running if one not in leaving and one.displaced < MOST_DISPLACED]
    assert not any(standing.goes_over(one.standing) for one in stays)


def queued(*standings: Standing) -> tuple[Queue, list[Any]]:
    rows: list[Any] = [One(standing) for standing in standings]
    queue = Queue()
    for row in rows:
        queue.add(row)
    return queue, rows


def taken(queue: Queue) -> list[Any]:
    return [queue.take_first() for _ in range(len(queue))]


@given(st.lists(standings))
def test_the_queue_gives_rows_by_their_place(given_standings: Sequence[Standing]) -> None:
    queue, rows = queued(*given_standings)
    assert taken(queue) == sorted(rows, key=lambda row: row.standing.place)


def test_equal_rows_go_as_they_came_and_one_that_was_here_before_goes_ahead_of_them() -> None:
    queue, rows = queued(*[Standing.of(1.0, 0)] * 3)
    queue.put_back(back := One(Standing.of(1.0, 0)))  # type: ignore[arg-type]
    queue.remove(rows[1])
    assert queue.first is back and list(queue) == [back, rows[0], rows[2]]
    assert taken(queue) == [back, rows[0], rows[2]] and not queue
