"""Handlers between gRPC's bytes and our methods: parsing, errors and the gate, in one place for all methods.

The handlers are registered without deserializers: gRPC answers what it cannot parse with UNKNOWN and a
Python class name, where INVALID_ARGUMENT is right.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Never, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from backend.core.errors import InternalFault, InvalidRequest, WorkerError
from backend.core.logline import logline
from backend.rpc.gate import Gate
from backend.rpc.status import status_of

Request = TypeVar("Request", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, Message]"  # not subscriptable when run
Unary = Callable[[Request, Context], Awaitable[Message]]
Stream = Callable[[Request, Context], AsyncGenerator[Message]]

log = logging.getLogger(__name__)


def parse(kind: type[Request], data: bytes) -> Request:
    """A message from its bytes.

    Raises:
        InvalidRequest: They are not one, or a string in them is not UTF-8.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        reason = str(error).rpartition(": ")[2]
        raise InvalidRequest("request", f"not a valid {kind.DESCRIPTOR.full_name}: {reason}") from None


def unary_handler(gate: Gate, kind: type[Request], method: Unary[Request]) -> Handler:
    """A handler for a method with one reply."""

    async def handle(data: bytes, context: Context) -> Message:
        try:
            with gate.call():
                return await method(parse(kind, data), context)
        except Exception as error:  # noqa: BLE001 (the edge: `fail` answers every error)
            await fail(context, error)

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=serialize)


def stream_handler(gate: Gate, kind: type[Request], method: Stream[Request]) -> Handler:
    """A handler for a method with a stream of replies."""

    # It writes instead of yielding: a client that leaves cancels the write, and a generator of ours would
    # hear of it only when it is collected.
    async def handle(data: bytes, context: Context) -> None:
        try:
            with gate.call():
                async with aclosing(method(parse(kind, data), context)) as replies:
                    async for reply in replies:
                        await context.write(reply)
        except Exception as error:  # noqa: BLE001
            await fail(context, error)

    return grpc.unary_stream_rpc_method_handler(handle, response_serializer=serialize)


async def fail(context: Context, error: Exception) -> Never:
    """End the call with the status of an error."""
    # abort() itself raises one of these; it has answered already.
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if context.cancelled():
        # A write that a leaving client ended may raise gRPC's own error; nobody is left to answer.
        raise asyncio.CancelledError
    if not isinstance(error, WorkerError):
        fault = uuid.uuid4().hex
        log.error(logline("internal_fault", id=fault), exc_info=error)
        error = InternalFault(f"internal error {fault}")
    code, details = status_of(error)
    await context.abort(code, details)


def serialize(message: Message) -> bytes:
    """The wire form of a reply."""
    return message.SerializeToString()
