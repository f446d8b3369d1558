"""Events from the engine to one reader: in order, joined when unread, and exactly one end."""

import asyncio
from collections.abc import Callable

import pytest

from backend.core.errors import Overloaded, RequestCancelled
from backend.core.events import Delta, Event, Failed, Finished, FinishReason, Piece, Usage
from backend.engine.channel import AnswerStream, Outbox


def delta(text: str, tokens: int = 1) -> Delta:
    return Delta(piece=Piece(content=text), usage=Usage(prompt_tokens=3, completion_tokens=tokens))


def end() -> Finished:
    return Finished(reason=FinishReason.STOP, piece=Piece(), usage=Usage(prompt_tokens=3))


class Ends:
    def __init__(self) -> None:
        self.cancelled: list[AnswerStream] = []
        self.ended = 0

    def on_end(self) -> None:
        self.ended += 1


def stream_for(ends: Ends, **options: object) -> AnswerStream:
    return AnswerStream(ends.cancelled.append, ends.on_end, **options)  # type: ignore[arg-type]


async def read_all(stream: AnswerStream) -> list[Event]:
    return [event async for event in stream]


def test_what_was_not_read_is_joined_and_the_end_comes_last() -> None:
    async def run() -> list[Event]:
        ends = Ends()
        stream = stream_for(ends)
        for event in (delta("a", 1), delta("b", 2), delta("c", 3), end()):
            stream.deliver(event)
        assert ends.ended == 1
        return await read_all(stream)

    assert asyncio.run(run()) == [delta("abc", 3), end()]


def test_a_waiting_reader_gets_each_event() -> None:
    async def run() -> list[Event]:
        stream = stream_for(Ends())
        reader = asyncio.create_task(read_all(stream))
        for event in (delta("a"), delta("b"), end()):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            stream.deliver(event)
        return await reader

    assert asyncio.run(run()) == [delta("a"), delta("b"), end()]


def test_a_cancel_is_told_once_and_not_after_the_end() -> None:
    async def run() -> None:
        ends = Ends()
        stream = stream_for(ends)
        stream.cancel()
        stream.cancel()
        assert ends.cancelled == [stream] and ends.ended == 0
        stream.deliver(Failed(error=RequestCancelled()))
        assert ends.ended == 1
        done = stream_for(ends)
        done.deliver(end())
        await read_all(done)
        done.cancel()
        assert ends.cancelled == [stream] and ends.ended == 2

    asyncio.run(run())


def test_a_cancel_wakes_a_waiting_reader() -> None:
    async def run() -> list[Event]:
        stream = stream_for(Ends())
        reader = asyncio.create_task(read_all(stream))
        await asyncio.sleep(0)
        stream.cancel()
        return await asyncio.wait_for(reader, 30)

    assert asyncio.run(run()) == []


def test_a_reader_that_leaves_too_much_unread_for_too_long_fails_alone() -> None:
    now = [0.0]

    async def run() -> list[Event]:
        ends = Ends()
        stream = stream_for(ends, buffer_bytes=10, patience_s=5.0, clock=lambda: now[0])
        stream.deliver(delta("x" * 11))
        now[0] = 4.0
        stream.deliver(delta("y"))
        assert not ends.cancelled
        now[0] = 6.0
        stream.deliver(delta("z"))
        assert ends.cancelled == [stream]
        return await read_all(stream)

    (event,) = asyncio.run(run())
    assert isinstance(event, Failed) and isinstance(event.error, Overloaded)


def test_a_steps_events_cost_one_wake_up_and_nothing_follows_a_terminal_event() -> None:
    wakes: list[Callable[[], None]] = []

    async def run() -> list[list[Event]]:
        outbox = Outbox(wakes.append)
        first, second = stream_for(Ends()), stream_for(Ends())
        outbox.post(first, delta("a"))
        outbox.post(second, end())
        outbox.post(second, delta("late"))
        outbox.post(first, end())
        outbox.post(first, Failed(error=RequestCancelled()))
        outbox.flush()
        outbox.flush()
        assert len(wakes) == 1
        wakes[0]()
        return [await read_all(first), await read_all(second)]

    assert asyncio.run(run()) == [[delta("a"), end()], [end()]]


@pytest.mark.parametrize("size", [1, 7])
def test_a_discarded_stream_frees_its_place_once(size: int) -> None:
    async def run() -> int:
        ends = Ends()
        for _ in range(size):
            stream = stream_for(ends)
            stream.discard()
            stream.discard()
        return ends.ended

    assert asyncio.run(run()) == size
