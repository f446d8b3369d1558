"""A gRPC server of one method."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc

METHOD = "/test.Service/Method"


@asynccontextmanager
async def served(handler: "grpc.RpcMethodHandler[Any, Any]") -> AsyncGenerator[grpc.aio.Channel]:
    """A server that has this for `METHOD`, and a channel to it."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Method": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)
