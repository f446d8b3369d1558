"""When a draft model reads and guesses: for rows that it has read, prompts when nobody waits, memory that is spare."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backend.config import Drafter
from backend.engine.batching.drafting.drafting import Drafting, Turn
from backend.engine.batching.drafting.model_drafter import Guess
from backend.engine.batching.row import Row
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.row_drafts import Experience, RowDrafts

AMPLE = 1 << 30
PLAIN_S = 0.01


class Reading:
    """Stands in for a draft model: how much of each row it has to read, and what it was asked for."""

    fault = ""

    def __init__(self, *left: int, seconds_a_token: float = 1e-5) -> None:
        self.left = list(left)
        self.seconds_a_token = seconds_a_token
        self.rows: list[Row] = []
        self.read_rows: list[int] = []
        self.drafted: list[int] = []

    def may_guess(self, row: Row, count: int) -> bool:
        return count > 0

    def to_read(self, row: Row) -> int:
        return self.left[self.rows.index(row)]

    def seconds_to_read(self, tokens: int) -> float:
        return tokens * self.seconds_a_token

    def read(self, row: Row) -> float:
        index = self.rows.index(row)
        self.read_rows.append(index)
        self.left[index] = 0
        return 0.001

    def draft(self, rows: list[Row], count: int) -> dict[int, Guess]:
        self.drafted.append(count)
        ready = [index for index, row in enumerate(rows) if not self.to_read(row)]
        return {index: Guess((5,) * count, (0.95,) * count) for index in ready}


def drafting(reading: Reading, *, credit: float = 8.0) -> Drafting:
    depths = Depths(4, credit=credit)
    n = len(reading.left)
    depths.calibrated(n, 0, PLAIN_S)
    for depth in depths.options:
        depths.calibrated(n, depth, PLAIN_S * (1 + 0.01 * depth))
        for _ in range(2):
            depths.drafted(n, depth, 0.01 * PLAIN_S * depth)
    depths.drafting.take_due()
    reading.rows = [row() for _ in reading.left]
    return Drafting(drafter=cast(Any, reading), depths=depths, bytes_of=lambda rows, n: rows * n, clock=lambda: 0.0)


def row(*, completed: int = 10, limit: int = 1000) -> Row:
    prompt = np.arange(3, 9, dtype=np.int32)
    drafts = RowDrafts(prompt, kinds=frozenset({Drafter.MODEL}))
    submit = SimpleNamespace(max_tokens=limit)
    return cast(Any, SimpleNamespace(drafts=drafts, submit=submit, completion_tokens=completed))


def turn(made: Drafting, *, may_read: bool = True) -> Turn | None:
    rows = cast(Any, made.drafter).rows
    return made.turn(rows, [None] * len(rows), [4] * len(rows), may_read=may_read, experience=Experience())


def test_rows_that_were_read_are_guessed_and_the_shortest_of_the_others_is_read() -> None:
    reading = Reading(0, 300, 90, 0)
    made = drafting(reading)
    asked = turn(made)
    assert asked is not None and asked.count > 0 and asked.reads is reading.rows[2]
    made.take(reading.rows, asked, spare=lambda: AMPLE)
    assert reading.read_rows == [2] and reading.drafted == [asked.count]
    given = [row.drafts.model for row in reading.rows if row.drafts is not None]
    assert [len(model) for model in given if model is not None] == [asked.count, 0, asked.count, asked.count]
    # What was given is looked at before more is asked for.
    assert turn(made, may_read=False) is None


def test_nothing_is_read_while_others_prompts_wait() -> None:
    made = drafting(Reading(50))
    assert turn(made, may_read=False) is None
    assert turn(made) == Turn(0, cast(Any, made.drafter).rows[0])


@pytest.mark.parametrize(
    ("seconds_a_token", "completed", "credit", "reads"),
    [
        (1e-5, 10, 8.0, True),
        (1e-2, 10, 8.0, False),
        (2e-3, 10, 8.0, True),
        (2e-3, 10, 0.5, False),
        (7e-4, 999, 8.0, False),
    ],
)
def test_a_prompt_is_read_for_what_the_rest_of_the_answer_wins_and_the_account_bears(
    seconds_a_token: float, completed: int, credit: float, reads: bool
) -> None:
    reading = Reading(100, seconds_a_token=seconds_a_token)
    made = drafting(reading, credit=credit)
    reading.rows = [row(completed=completed)]
    assert (turn(made) is not None) == reads


def test_no_round_takes_memory_but_what_is_spare() -> None:
    reading = Reading(0, 0)
    made = drafting(reading)
    asked = turn(made)
    assert asked is not None
    made.take(reading.rows, asked, spare=lambda: 2 * asked.count - 1)
    assert not reading.drafted
    made.take(reading.rows, asked, spare=lambda: 2 * asked.count)
    assert reading.drafted == [asked.count]


def test_a_row_that_has_left_meanwhile_is_not_read() -> None:
    reading = Reading(0, 80)
    made = drafting(reading)
    asked = turn(made)
    assert asked is not None and asked.reads is reading.rows[1]
    made.take(reading.rows[:1], asked, spare=lambda: AMPLE)
    assert not reading.read_rows
