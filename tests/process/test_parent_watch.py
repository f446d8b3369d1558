"""The watch on the parent."""

import asyncio

import pytest

from backend.process.parent_watch import parent_gone


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
