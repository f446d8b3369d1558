"""Which prep thread a prompt goes to."""

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable

import pytest

from backend.core.errors import Overloaded, RequestAborted
from backend.core.request import Conversation, Message
from backend.engine.preparing.lanes import LANES, MOST_UNQUEUED, UNQUEUED_LANES, Lanes, characters

SHORT, LONG, HUGE = "a", "a" * (LANES[0][0] + 1), "a" * (LANES[1][0] + 1)  # type: ignore[operator]
UNQUEUED_LONG = UNQUEUED_LANES[0][0] + 1  # type: ignore[operator]


def with_lanes(body: Callable[[Lanes, threading.Event], Awaitable[None]]) -> None:
    """Run `body` with lanes and the event that lets go on what it has blocked."""

    async def run() -> None:
        lanes, go_on = Lanes(), threading.Event()
        try:
            await asyncio.wait_for(body(lanes, go_on), 60)
        finally:
            go_on.set()
            lanes.shutdown()

    asyncio.run(run())


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


def test_no_request_is_prepared_after_what_is_in_no_queue() -> None:
    async def body(lanes: Lanes, go_on: threading.Event) -> None:
        sizes = [size for size in (0, UNQUEUED_LONG) for _ in range(MOST_UNQUEUED // 2)]
        unqueued = [asyncio.ensure_future(lanes.run_unqueued(size, go_on.wait, 60)) for size in sizes]
        await asyncio.sleep(0)
        for prompt in (SHORT, LONG, HUGE):
            assert await lanes.run_for(prompt, lambda: "prepared") == "prepared"
        assert await lanes.run(lambda: "prepared") == "prepared"
        assert not any(task.done() for task in unqueued)
        go_on.set()
        assert all(await asyncio.gather(*unqueued))

    with_lanes(body)


def test_what_is_in_no_queue_waits_for_none_of_another_order() -> None:
    async def body(lanes: Lanes, go_on: threading.Event) -> None:
        long = asyncio.ensure_future(lanes.run_unqueued(UNQUEUED_LONG, go_on.wait, 60))
        assert await lanes.run_unqueued(UNQUEUED_LONG - 1, lambda: "short") == "short"
        assert not long.done()
        go_on.set()
        assert await long

    with_lanes(body)


@pytest.mark.parametrize("end", ["success", "failure", "cancel"])
def test_so_many_are_in_no_queue_and_one_more_has_the_place_of_one_that_ended(end: str) -> None:
    async def body(lanes: Lanes, go_on: threading.Event) -> None:
        begun, end_it = threading.Event(), threading.Event()

        def first() -> bool:
            begun.set()
            end_it.wait(60)
            return end == "success" or 1 / 0 > 0

        tasks = [asyncio.ensure_future(lanes.run_unqueued(0, first))]
        tasks += [asyncio.ensure_future(lanes.run_unqueued(0, go_on.wait, 60)) for _ in range(MOST_UNQUEUED - 1)]
        assert await asyncio.to_thread(begun.wait, 30)

        for _ in range(2):
            with pytest.raises(Overloaded, match=f"{MOST_UNQUEUED} calls of TokenizeString, .*, limit {MOST_UNQUEUED}"):
                await lanes.run_unqueued(UNQUEUED_LONG, lambda: "refused")
        assert not any(task.done() for task in tasks)
        ended = tasks.pop(5 if end == "cancel" else 0)
        if end == "cancel":
            ended.cancel()
        else:
            end_it.set()
        (outcome,) = await asyncio.gather(ended, return_exceptions=True)
        assert isinstance(outcome, {"success": bool, "failure": ZeroDivisionError}.get(end, asyncio.CancelledError))
        assert await lanes.run_unqueued(UNQUEUED_LONG, lambda: "taken") == "taken"
        end_it.set()
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await asyncio.gather(*(lanes.run_unqueued(0, lambda: "all") for _ in range(MOST_UNQUEUED)))

    with_lanes(body)


def test_what_is_cancelled_before_a_thread_has_it_is_held_by_nobody() -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    async def body(lanes: Lanes, go_on: threading.Event) -> None:
        begun = threading.Event()

        def work() -> bool:
            begun.set()
            return go_on.wait(60)

        running = asyncio.ensure_future(lanes.run_for(HUGE, work))
        assert await asyncio.to_thread(begun.wait, 30)
        text = Text(HUGE)
        held, waiting = weakref.ref(text), asyncio.ensure_future(lanes.run_for(text, len, text))
        del text
        await asyncio.sleep(0)
        assert held() is not None
        waiting.cancel()
        await asyncio.wait([waiting])
        del waiting
        # What the loop still has to call of a cancelled future.
        await asyncio.sleep(0)
        assert held() is None
        go_on.set()
        assert await running

    with_lanes(body)


def test_many_short_messages_and_large_json_make_a_conversation_long() -> None:
    message = Message(role="user", content="a", reasoning_content="bc")
    assert characters(Conversation(messages=(message,) * 1000)) > LANES[0][0]  # type: ignore[operator]
    assert characters(Conversation(messages=(message,), json_bytes=1 << 20)) > 1 << 20
    assert characters(Conversation(messages=(message,))) < 100
