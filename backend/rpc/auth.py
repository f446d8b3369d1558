"""The bearer token: without it nothing is looked up, parsed or executed, health and reflection included."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from backend.core.errors import Unauthenticated
from backend.rpc.status import status_of

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # not subscriptable when run


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call that does not carry exactly one right token."""

    def __init__(self, token: str, on_refusal: Callable[[], None] = lambda: None) -> None:
        # Bytes: compare_digest raises on text that is not ASCII.
        self._expected = b"Bearer " + token.encode()
        self._on_refusal = on_refusal
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The call's own handler, or one that refuses it."""
        values = [
            value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            for key, value in handler_call_details.invocation_metadata or ()
            if key.lower() == "authorization"
        ]
        if len(values) == 1 and hmac.compare_digest(values[0], self._expected):
            return await continuation(handler_call_details)
        self._on_refusal()
        return self._refusal


async def _refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
    """Refuse a call of any kind: on the wire each is a stream of requests and a stream of replies.

    A refusal of the wrong kind would end a unary call OK with an empty reply instead.
    """
    await context.abort(*status_of(Unauthenticated()))
    yield b""  # never reached; makes this a generator, as the handler's kind wants
