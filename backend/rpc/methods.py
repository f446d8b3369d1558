"""Handlers between gRPC's bytes and our methods: parsing, errors and the gate, in one place for all methods.

The handlers are registered without deserializers: gRPC answers what it cannot parse with UNKNOWN and a
Python class name, where INVALID_ARGUMENT is right, and parses on the event loop whatever comes. And as ones that take
a stream of messages: so they read the one that there is, and when.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from backend.core.cancelling import is_being_cancelled
from backend.core.errors import InternalFault, InvalidRequest, WorkerError
from backend.core.logline import logline
from backend.core.panics import is_panic
from backend.rpc.calls import CallCounts
from backend.rpc.gate import Gate
from backend.rpc.held_messages import HeldMessage, HeldMessages
from backend.rpc.off_loop import OffLoop
from backend.rpc.receiving import Receiver
from backend.rpc.status import one_line, status_of
from backend.translate.requests import deadline_of
from backend.translate.wire_limits import check_size

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bytes, None)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, Any]"  # not subscriptable when run
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received(Generic[Request]):
    """A request, and how many bytes it came in: what the work on it is reckoned by.

    Attributes:
        held: What of it counts; to be let go where nothing that grows with the message is left before the call ends.
    """

    message: Request
    size: int
    held: HeldMessage


Unary = Callable[[Received[Request], Context], Awaitable[Message]]
Stream = Callable[[Received[Request], Context], AsyncGenerator[Message]]
Conversation = Callable[[AsyncIterator[Request], Context], AsyncGenerator[Message]]


async def receive(off_loop: OffLoop, kind: type[Request], held: HeldMessage) -> Received[Request]:
    """A request from its bytes; a large one is parsed off the loop.

    Raises:
        InvalidRequest: As `parse`.
    """
    data = held.take()
    return Received(await off_loop.run(len(data), parse, kind, data), len(data), held)


def parse(kind: type[Request], data: bytes) -> Request:
    """A message from its bytes.

    Raises:
        InvalidRequest: They are too many, or are not one, or a string in them is not UTF-8.
    """
    check_size(kind, data)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        reason = str(error).rpartition(": ")[2]
        raise InvalidRequest("request", f"not a valid {kind.DESCRIPTOR.full_name}: {reason}") from None


@dataclass(frozen=True, slots=True)
class Handlers:
    """Makes handlers of one server. Event loop only."""

    gate: Gate
    off_loop: OffLoop
    calls: CallCounts
    receiver: Receiver
    messages: HeldMessages

    def unary(self, name: str, kind: type[Request], method: Unary[Request]) -> Handler:
        """A handler for a method with one reply; `name` is what its calls are counted under."""

        async def answer(held: HeldMessage, context: Context) -> bytes:
            held.put(await self.receiver.read(context))
            with self.gate.call():
                reply = await method(await receive(self.off_loop, kind, held), context)
                # What was asked for with megabytes may be megabytes.
                return await self.off_loop.run(held.size or 0, serialize, reply)

        return grpc.stream_unary_rpc_method_handler(self._call(name, answer))

    # The two below write instead of yielding: a client that leaves cancels the write, and a generator of ours would
    # hear of it only when it is collected.
    def stream(self, name: str, kind: type[Request], method: Stream[Request]) -> Handler:
        """A handler for a method with a stream of replies; `name` is what its calls are counted under."""

        async def answer(held: HeldMessage, context: Context) -> None:
            held.put(await self.receiver.read(context))
            with self.gate.call():
                await write_all(method(await receive(self.off_loop, kind, held), context), context)

        return grpc.stream_stream_rpc_method_handler(self._call(name, answer), response_serializer=serialize)

    def conversation(self, name: str, kind: type[Request], method: Conversation[Request]) -> Handler:
        """A handler for a method with a stream of requests, each read when the method asks for it."""

        async def answer(_: HeldMessage, context: Context) -> None:
            async with aclosing(self._requests(kind, context)) as requests:
                with self.gate.call():
                    await write_all(method(requests, context), context)

        return grpc.stream_stream_rpc_method_handler(self._call(name, answer), response_serializer=serialize)

    async def _requests(self, kind: type[Request], context: Context) -> AsyncGenerator[Request]:
        while (data := await self.receiver.read_next(context)) is not None:
            held = self.messages.begin()
            try:
                held.put(data)
                del data
                yield (await receive(self.off_loop, kind, held)).message
            finally:
                held.let_go()

    def _call(self, name: str, answer: Callable[[HeldMessage, Context], Awaitable[Reply]]) -> Callable[..., Any]:
        async def handle(_: AsyncIterator[bytes], context: Context) -> Reply:
            held = self.messages.begin()
            ended: grpc.StatusCode | None = None
            try:
                reply = await answer(held, context)
                ended = grpc.StatusCode.OK
                return reply
            except BaseException as error:  # noqa: BLE001 (the edge: every error is answered)
                code, details = answer_to(error, context)
                ended = code
            finally:
                self.calls.ended(name, ended or left_with(context))
                held.let_go()
                self.off_loop.give_back_memory(held.size)
            # gRPC keeps what abort raises, and with it this frame, in a cycle: out here, and without the request.
            await context.abort(code, details)

        return handle


async def write_all(replies: AsyncGenerator[Message], context: Context) -> None:
    """Write replies as they come; the generator is closed whichever way it ends."""
    async with aclosing(replies):
        async for reply in replies:
            await context.write(reply)


def answer_to(error: BaseException, context: Context) -> tuple[grpc.StatusCode, str]:
    """The status that ends a call with this error.

    Raises:
        asyncio.CancelledError: Nobody is left to be told.
        BaseException: The error, where it means that all work here is to end.
    """
    if not isinstance(error, Exception) and not is_panic(error) and not _is_of_another(error, context):
        try:
            raise error
        finally:
            del error  # else it holds this frame, this frame it, and both the call and its server
    # A write that a leaving client ended may raise gRPC's own error, and before the call is known to be cancelled.
    if context.cancelled():
        raise asyncio.CancelledError
    if isinstance(error, grpc.aio.InternalError):
        log.info(logline("reply_not_written", reason=one_line(str(error))))
        raise asyncio.CancelledError
    if not isinstance(error, WorkerError):
        fault = uuid.uuid4().hex
        log.error(logline("internal_fault", id=fault), exc_info=error)
        error = InternalFault(f"internal error {fault}")
    return status_of(error)


def _is_of_another(error: BaseException, context: Context) -> bool:
    """Whether what was cancelled is something that the call waited for, and neither the call nor its task."""
    return isinstance(error, asyncio.CancelledError) and not context.cancelled() and not is_being_cancelled()


def left_with(context: Context) -> grpc.StatusCode:
    """The status of a call whose client has left, or whose time was up before we said so."""
    left = deadline_of(context.time_remaining(), now=0.0)
    late = left is not None and left <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def serialize(message: Message) -> bytes:
    """The wire form of a reply."""
    return message.SerializeToString()
