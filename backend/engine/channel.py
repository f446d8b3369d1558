"""From the engine thread to the event loop: each request's events, one wake-up of the loop a step."""

import asyncio
import time
from collections.abc import Callable

from backend.core.errors import Overloaded
from backend.core.events import Delta, Event, Failed, Finished, Piece
from backend.core.text_size import utf8_size


def _joined(deltas: list[Delta]) -> Delta:
    return Delta(
        piece=Piece(
            content="".join(d.piece.content for d in deltas),
            reasoning="".join(d.piece.reasoning for d in deltas),
            tool_calls=tuple(call for d in deltas for call in d.piece.tool_calls),
        ),
        usage=deltas[-1].usage,
    )


class AnswerStream:
    """One request's events, read by one task of the event loop.

    The engine thread only calls `Outbox.post`; everything here runs on the loop. Deltas that the reader has
    not taken are joined into one, so a slow reader costs the bytes of its unread answer and never a step.
    """

    def __init__(
        self,
        on_cancel: Callable[["AnswerStream"], None],
        on_end: Callable[[], None],
        *,
        buffer_bytes: int = 4 << 20,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_cancel` tells the engine to stop; `on_end` is called once, when the request is over on this side."""
        self._on_cancel = on_cancel
        self._on_end = on_end
        self._buffer_bytes = buffer_bytes
        self._patience_s = patience_s
        self._clock = clock
        self._unread: list[Delta] = []
        self._end: Finished | Failed | None = None
        self._size = 0
        self._full_since: float | None = None
        self._changed = asyncio.Event()
        self._done = False
        self._over = False
        self.ended = False  # engine thread: a terminal event was posted

    def __aiter__(self) -> "AnswerStream":
        return self

    async def __anext__(self) -> Event:
        """The next event; after the terminal one, StopAsyncIteration."""
        if self._done:
            raise StopAsyncIteration
        while not self._unread and self._end is None:
            self._changed.clear()
            await self._changed.wait()
            if self._done:
                raise StopAsyncIteration
        if self._unread:
            deltas, self._unread = self._unread, []
            self._size, self._full_since = 0, None
            return deltas[0] if len(deltas) == 1 else _joined(deltas)
        assert self._end is not None
        self._done = True
        return self._end

    def cancel(self) -> None:
        """Tell the engine that nobody reads any more; harmless after the end and when called twice."""
        if not self._done:
            self._done = True
            self._changed.set()
            self._on_cancel(self)

    def discard(self) -> None:
        """The request never reached the engine."""
        self._done = True
        self._end_once()

    def _end_once(self) -> None:
        if not self._over:
            self._over = True
            self._on_end()

    def deliver(self, event: Event) -> None:
        """Take one event on the loop."""
        if not isinstance(event, Delta):
            self._end_once()
        if self._end is not None or self._done:
            return
        if isinstance(event, Delta):
            self._keep(event)
        else:
            self._end = event
        self._changed.set()

    def _keep(self, delta: Delta) -> None:
        piece = delta.piece
        texts = (piece.content, piece.reasoning, *(call.arguments for call in piece.tool_calls))
        self._size += sum(map(utf8_size, texts))
        self._unread.append(delta)
        if self._size > self._buffer_bytes:
            now = self._clock()
            if self._full_since is None:
                self._full_since = now
            if now - self._full_since >= self._patience_s:
                self._unread = []
                self._end = Failed(error=Overloaded("the reader left its answer unread for too long"))
                self._on_cancel(self)


class Outbox:
    """Engine thread only: gathers a step's events and hands them to the loop in one call."""

    def __init__(self, wake: Callable[[Callable[[], None]], None]) -> None:
        """`wake(f)` must run f on the event loop soon (`loop.call_soon_threadsafe`)."""
        self._wake = wake
        self._events: list[tuple[AnswerStream, Event]] = []

    def __len__(self) -> int:
        """Events that are to be delivered yet."""
        return len(self._events)

    def post(self, stream: AnswerStream, event: Event) -> None:
        """Queue an event; after a stream's terminal event all others are dropped."""
        if stream.ended:
            return
        stream.ended = not isinstance(event, Delta)
        self._events.append((stream, event))

    def flush(self) -> None:
        """Deliver what was posted since the last flush."""
        if not self._events:
            return
        events, self._events = self._events, []

        def deliver() -> None:
            for stream, event in events:
                stream.deliver(event)

        self._wake(deliver)
