"""How calls' messages come in. On the wire each call is a stream of messages, mostly of one; we read them ourselves.

gRPC would read one before it asks us, for every call at once and for as long as it takes: a client that keeps back the
last byte of many messages makes it hold all the others, 12 MiB for each of a thousand calls of one connection.
"""

import asyncio
import logging
from collections import OrderedDict
from typing import Any, Final

import grpc

from backend.core.cancelling import is_being_cancelled
from backend.core.errors import DeadlineExceeded, InvalidRequest, Overloaded, RequestCancelled
from backend.core.held_tasks import hold
from backend.translate.requests import deadline_of

log = logging.getLogger(__name__)

# Of one connection: as many whole messages are read in some milliseconds, and others wait for no more than that.
READ_TOGETHER: Final = 32
SMALL_READ_TOGETHER: Final = 4  # where messages are tiny
# A message of 12 MiB comes in a second over a slow network. It may take longer while nobody waits for its place.
PATIENCE_S: Final = 5.0
LONGEST_S: Final = 300.0


class Receiver:
    """Reads the message of each call, of one connection so many at a time. Event loop only."""

    def __init__(self, read_together: int = READ_TOGETHER, patience_s: float = PATIENCE_S) -> None:
        self._read_together, self._patience_s = read_together, patience_s
        self._connections: dict[str, _Connection] = {}
        self._reads: set[asyncio.Task[None]] = set()

    async def read(self, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        """The message of a call that has one.

        Raises:
            InvalidRequest: The client has ended the call's messages without one.
            WorkerError: As `read_next`.
        """
        data = await self.read_next(context)
        if data is None:
            raise InvalidRequest("request", "the call ended without a message")
        return data

    async def read_next(self, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes | None:
        """The call's next message, None after its last one; waits while its connection is in the middle of too many.

        Raises:
            DeadlineExceeded: The call's time is up.
            RequestCancelled: It is gone.
            Overloaded: It has not come to its end, and others wait.
        """
        peer = context.peer()
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = _Connection(self._reads, self._read_together, self._patience_s)
        try:
            data = await connection.read(context)
        finally:
            if connection.idle:
                self._connections.pop(peer, None)
        if isinstance(data, Exception):
            # gRPC's own, of a call that is gone.
            log.debug("reading", exc_info=data)
            raise RequestCancelled
        if not isinstance(data, bytes):
            left = deadline_of(context.time_remaining(), now=0.0)
            if left is not None and left <= 0:  # its end is that of the call's time
                raise DeadlineExceeded
            return None
        return data


class _Connection:
    """The calls of one client whose messages are on their way."""

    def __init__(self, reads: set[asyncio.Task[None]], read_together: int, patience_s: float) -> None:
        self._reads = reads
        self._places = asyncio.Semaphore(read_together)
        self._patience_s = patience_s
        self._waiting = 0
        self._reading: OrderedDict[asyncio.Future[object], float] = OrderedDict()  # and since when, the oldest first
        self._ending: set[asyncio.Future[object]] = set()
        self._look: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._reading

    async def read(self, context: "grpc.aio.ServicerContext[Any, Any]") -> object:
        self._waiting += 1
        if self._look is None:
            self._look_again()
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        message: asyncio.Future[object] = loop.create_future()
        hold(self._reads, loop.create_task(_to_its_end(context, message)))
        latest = loop.call_later(LONGEST_S, self._end, message)
        self._reading[message] = loop.time()
        try:
            return await message
        except asyncio.CancelledError:
            if message not in self._ending or is_being_cancelled():
                raise
            raise Overloaded("the request's message has not come to its end in time") from None
        finally:
            latest.cancel()
            self._reading.pop(message, None)
            self._places.release()
            self._ending.discard(message)
            if self._waiting:
                # Who gets the place counts as waiting until it runs; nobody else is to go for it meanwhile.
                self._ending.add(message)
                loop.call_soon(self._has_been_taken, message)

    def _has_been_taken(self, message: asyncio.Future[object]) -> None:
        """Somebody has the place of this message; the next that waits goes for another's."""
        self._ending.discard(message)
        if self._look is None:
            self._look_again()

    def _look_again(self) -> None:
        """End what has been read for too long, as many as wait for their places, and come back for the next."""
        self._look = None
        loop = asyncio.get_running_loop()
        while self._reading and self._places.locked() and self._waiting > len(self._ending):
            message, since = next(iter(self._reading.items()))
            if since + self._patience_s > loop.time():
                self._look = loop.call_at(since + self._patience_s, self._look_again)
                return
            self._end(message)

    def _end(self, message: asyncio.Future[object]) -> None:
        self._reading.pop(message, None)
        self._ending.add(message)
        message.cancel()


async def _to_its_end(context: "grpc.aio.ServicerContext[Any, Any]", message: asyncio.Future[object]) -> None:
    """Give `message` what gRPC reads, or why it does not, in a task that nobody cancels.

    It ends with the call. Were it cancelled, gRPC would still have the address of what it reads into, and would never
    free what it has made for the read: some 40 bytes for each call that a client has opened and reset.
    """
    try:
        data: object = await context.read()
    except Exception as error:  # noqa: BLE001 (whoever waits has it; where nobody does any more, none is to be told)
        data = error
    if not message.done():
        message.set_result(data)
