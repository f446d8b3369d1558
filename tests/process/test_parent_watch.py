"""The watch on the parent."""

import asyncio
import os

import pytest

from backend.process.parent_watch import STARTED_BY, first_parent, parent_gone


def test_it_ends_when_the_parent_is_another() -> None:
    answers = iter([7, 7, 1])
    asyncio.run(parent_gone(0.0, parent=7, ask=lambda: next(answers)))
    assert next(answers, None) is None


def test_it_never_ends_where_init_was_the_parent_from_the_start() -> None:
    async def watch() -> None:
        async with asyncio.timeout(0.05):
            await parent_gone(0.0, parent=1, ask=lambda: 2)

    with pytest.raises(TimeoutError):
        asyncio.run(watch())


def test_the_parent_is_the_one_that_run_sh_had_if_that_was_this_very_process() -> None:
    environment = {STARTED_BY: f"{os.getpid()}:4711"}
    assert first_parent(environment) == 4711
    assert not environment


@pytest.mark.parametrize("told", ["", "1:4711", "x", "PID:", "PID:x"])
def test_what_another_process_was_told_or_nobody_said_is_not_used(told: str) -> None:
    assert first_parent({STARTED_BY: told.replace("PID", str(os.getpid()))}) == os.getppid()
