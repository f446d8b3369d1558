"""Which conversation is forgotten when, and how much of it."""

import numpy as np
import pytest

from backend.engine.batching.conversations import Conversations, Left


def told(left: list[Left]) -> list[tuple[str, list[int], int]]:
    return [(one.tenant, one.tokens.tolist(), one.keep) for one in left]


def tokens(*ids: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.asarray(ids, np.int32)


def test_a_conversation_goes_when_it_has_been_idle_long_enough_after_its_last_turn() -> None:
    kept = Conversations(idle_s=10, most=9)
    assert kept.next_due(0) is None
    assert not list(kept.turn("t", "a", tokens(1, 2), 0))
    assert not list(kept.turn("t", "b", tokens(3), 4))
    assert not list(kept.turn("t", "a", tokens(1, 2, 3), 8))
    assert kept.next_due(9) == 5
    assert not list(kept.due(13.9))
    assert told(list(kept.due(14))) == [("t", [3], 0)]
    assert told(list(kept.due(99))) == [("t", [1, 2, 3], 0)]
    assert kept.next_due(99) is None


def test_the_idlest_goes_when_there_are_too_many() -> None:
    kept = Conversations(idle_s=None, most=2)
    for at, name in enumerate(("a", "b", "a", "c")):
        gone = list(kept.turn("t", name, tokens(ord(name), at), at))
    assert told(gone) == [("t", [ord("b"), 1], 0)]
    assert len(kept) == 2


def test_what_another_conversation_of_the_tenant_goes_through_is_kept() -> None:
    kept = Conversations(idle_s=10, most=9)
    for at, (tenant, name, ids) in enumerate([("t", "a", (1, 2, 3)), ("t", "b", (1, 2, 9)), ("u", "c", (1, 2, 3))]):
        list(kept.turn(tenant, name, tokens(*ids), at))
    assert told(list(kept.due(10))) == [("t", [1, 2, 3], 2)]


def test_an_edited_turn_is_a_branch_and_the_oldest_of_many_goes() -> None:
    kept = Conversations(idle_s=10, most=9)
    gone = [left for last in range(6) for left in kept.turn("t", "a", tokens(1, last), 0)]
    assert told(gone) == [("t", [1, 0], 1), ("t", [1, 1], 1)]
    assert told(list(kept.due(10))) == [("t", [1, last], 0) for last in (2, 3, 4, 5)]


@pytest.mark.parametrize(("tenant", "left"), [("t", 1), (None, 0)])
def test_clearing_forgets_without_a_word(tenant: str | None, left: int) -> None:
    kept = Conversations(idle_s=10, most=9)
    list(kept.turn("t", "a", tokens(1), 0))
    list(kept.turn("u", "a", tokens(1), 0))
    kept.clear(tenant)
    assert len(kept) == left


def test_what_an_earlier_process_knew_is_forgotten_in_its_turn() -> None:
    kept = Conversations(idle_s=10, most=2)
    for last, name in ((-9.0, "a"), (-3.0, "b"), (-2.0, "c")):
        kept.restore("t", name, [tokens(1, ord(name)), tokens(2)], last)
    surplus = list(kept.surplus())
    assert told(surplus) == [("t", [1, ord("a")], 1), ("t", [2], 1)]
    assert [(left.gone, left.last) for left in surplus] == [("a", -9.0)] * 2
    assert not list(kept.turn("t", "b", tokens(1, ord("b"), 5), 0))
    assert [branch.tolist() for branch in kept.branches("t", "b")] == [[2], [1, ord("b"), 5]]
    assert told(list(kept.due(8))) == [("t", [1, ord("c")], 1), ("t", [2], 1)]
    assert kept.next_due(8) == 2
