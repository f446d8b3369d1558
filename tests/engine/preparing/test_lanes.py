"""Which prep thread a prompt goes to."""

import asyncio
import threading

import pytest

from backend.core.errors import RequestAborted
from backend.core.request import Conversation, Message
from backend.engine.preparing.lanes import LANES, Lanes, characters

SHORT, LONG, HUGE = "a", "a" * (LANES[0][0] + 1), "a" * (LANES[1][0] + 1)  # type: ignore[operator]


def test_a_prompt_waits_for_none_of_another_order() -> None:
    async def run() -> None:
        lanes, go_on = Lanes(), threading.Event()
        try:
            blocked = [asyncio.ensure_future(lanes.run_for(HUGE, go_on.wait, 60)) for _ in range(3)]
            assert await asyncio.wait_for(lanes.run_for(LONG, lambda: "long"), 30) == "long"
            blocked.append(asyncio.ensure_future(lanes.run_for(LONG, go_on.wait, 60)))
            # One short prompt whose template takes its time leaves a thread for the others.
            blocked.append(asyncio.ensure_future(lanes.run_for(SHORT, go_on.wait, 60)))
            assert await asyncio.wait_for(lanes.run_for(SHORT, lambda: "short"), 30) == "short"
            assert await asyncio.wait_for(lanes.run(lambda: "close"), 30) == "close"
            assert not any(task.done() for task in blocked)
            go_on.set()
            assert all(await asyncio.gather(*blocked))
        finally:
            lanes.shutdown()

    asyncio.run(run())


def test_what_waits_for_a_thread_at_the_shutdown_is_aborted_and_what_comes_later_too() -> None:
    async def run() -> None:
        lanes, begun, go_on = Lanes(), threading.Event(), threading.Event()

        def work() -> bool:
            begun.set()
            return go_on.wait(60)

        running = asyncio.ensure_future(lanes.run_for(HUGE, work))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(begun.wait, 10)
        waiting = [asyncio.ensure_future(lanes.run_for(HUGE, lambda: "never")) for _ in range(2)]
        await asyncio.sleep(0)
        lanes.shutdown()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, RequestAborted)
        with pytest.raises(RequestAborted):
            await lanes.run(lambda: "late")
        go_on.set()
        assert await running

    asyncio.run(run())


def test_many_short_messages_and_large_json_make_a_conversation_long() -> None:
    message = Message(role="user", content="a", reasoning_content="bc")
    assert characters(Conversation(messages=(message,) * 1000)) > LANES[0][0]  # type: ignore[operator]
    assert characters(Conversation(messages=(message,), json_bytes=1 << 20)) > 1 << 20
    assert characters(Conversation(messages=(message,))) < 100
