"""How long a request waits for its grammar."""

import asyncio
import time

import pytest

from backend.engine.preparing.requests import _within


@pytest.mark.slow
def test_time_in_which_the_process_was_stopped_is_none_of_the_grammars() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        compiling = loop.create_future()
        waiting = asyncio.create_task(_within(2, compiling))
        await asyncio.sleep(0)
        time.sleep(2.2)  # noqa: ASYNC251 (what a stop looks like from here)
        loop.call_later(0.1, compiling.set_result, "compiled")
        assert await waiting == "compiled"

    asyncio.run(body())


def test_a_grammar_that_is_late_or_that_nobody_waits_for_is_given_up() -> None:
    async def body() -> None:
        late, left = (asyncio.get_running_loop().create_future() for _ in range(2))
        with pytest.raises(TimeoutError):
            await _within(1, late)
        waiting = asyncio.create_task(_within(60, left))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert late.cancelled() and left.cancelled()

    asyncio.run(body())
