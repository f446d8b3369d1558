"""grpc.aio, as `backend/rpc` uses it: cancellation, aborts, metadata, ports, deadlines."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from tests import one_method

Handler = Callable[[bytes, Any], Awaitable[Any]]
METHOD = one_method.METHOD
SECONDS = 20


def served(handle: Handler, *, streams: bool) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    """A server of one method, and a channel to it."""
    make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    return one_method.served(make(handle))


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """How the call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, SECONDS)
    return caught.value


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_leaves_cancels_the_handler_where_it_waits(streams: bool) -> None:
    async def run() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(_data: bytes, context: Any) -> bytes:
            begun.set()
            try:
                if streams:
                    await context.write(b"first")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return b""

        async with served(handle, streams=streams) as channel:
            call = channel.unary_stream(METHOD)(b"") if streams else channel.unary_unary(METHOD)(b"")
            await asyncio.wait_for(begun.wait(), SECONDS)
            call.cancel()
            await asyncio.wait_for(cancelled.wait(), SECONDS)

    asyncio.run(run())


def test_a_client_that_leaves_ends_a_write_that_it_does_not_read() -> None:
    """By a cancellation, or by an error of grpc's own where the write meets it first: not a fault of ours."""

    async def run() -> None:
        written: asyncio.Event = asyncio.Event()
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def handle(_data: bytes, context: Any) -> None:
            try:
                while True:
                    await context.write(bytes(1 << 20))
                    written.set()
            except asyncio.CancelledError:
                ended.set_result("CancelledError")
                raise
            except Exception as error:  # noqa: BLE001 - it has no public name
                ended.set_result(type(error).__name__)

        async with served(handle, streams=True) as channel:
            call = channel.unary_stream(METHOD)(b"")
            await asyncio.wait_for(written.wait(), SECONDS)
            call.cancel()
            assert await asyncio.wait_for(ended, SECONDS) in ("CancelledError", "ExecuteBatchError")

    asyncio.run(run())


def test_abort_raises_its_own_error_and_sends_status_details_and_trailing_metadata() -> None:
    details = "\u00e9 and 'quotes' " + "x" * 1000

    async def run() -> None:
        raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def handle(_data: bytes, context: Any) -> None:
            context.set_trailing_metadata((("x-request-id", "one"),))
            try:
                await context.abort(grpc.StatusCode.NOT_FOUND, details)
            except BaseException as error:
                raised.set_result(error)
                raise

        async with served(handle, streams=False) as channel:
            error = await failure(channel.unary_unary(METHOD)(b""))
            # The client may have the status before the handler goes on.
            cause = await asyncio.wait_for(raised, 30)
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, details)
        assert dict(error.trailing_metadata() or ())["x-request-id"] == "one"
        assert isinstance(cause, grpc.aio.AbortError)
        assert isinstance(cause, Exception)  # so `except Exception` meets it, and must let it pass

    asyncio.run(run())


def test_trailing_metadata_set_late_in_a_stream_is_sent() -> None:
    async def run() -> None:
        async def handle(_data: bytes, context: Any) -> None:
            await context.write(b"text")
            context.set_trailing_metadata((("x-finish-reason", "stop"),))

        async with served(handle, streams=True) as channel:
            call = channel.unary_stream(METHOD)(b"")
            assert [data async for data in call] == [b"text"]
            assert dict(await call.trailing_metadata() or ())["x-finish-reason"] == "stop"

    asyncio.run(run())


def test_a_handler_knows_its_clients_deadline() -> None:
    async def run() -> None:
        known: list[float | None] = []

        async def handle(_data: bytes, context: Any) -> bytes:
            known.append(context.time_remaining())
            return b""

        async with served(handle, streams=False) as channel:
            await channel.unary_unary(METHOD)(b"", timeout=SECONDS)
            await channel.unary_unary(METHOD)(b"")
        assert known[0] is not None
        assert 0 < known[0] < SECONDS + 1  # the wire rounds it up
        assert known[1] is None or known[1] > 1e6

    asyncio.run(run())


def test_without_reuseport_a_port_is_held_by_one() -> None:
    async def run() -> None:
        options = (("grpc.so_reuseport", 0),)
        first, second = grpc.aio.server(options=options), grpc.aio.server(options=options)
        port = first.add_insecure_port("127.0.0.1:0")
        assert port > 0
        await first.start()
        try:
            with pytest.raises(RuntimeError):
                second.add_insecure_port(f"127.0.0.1:{port}")
        finally:
            await first.stop(None)
            await second.stop(None)

    asyncio.run(run())


def test_a_message_over_the_limit_is_refused_before_the_handler() -> None:
    async def run() -> None:
        calls: list[int] = []

        async def handle(data: bytes, _context: Any) -> bytes:
            calls.append(len(data))
            return b""

        async with served(handle, streams=False) as channel:
            error = await failure(channel.unary_unary(METHOD)(bytes(5 << 20)))
        assert (error.code(), calls) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [])

    asyncio.run(run())


def test_a_failed_write_has_an_error_with_a_public_name() -> None:
    """What `backend.rpc.methods` takes for a client that has left; `ExecuteBatchError` itself has none."""
    assert issubclass(vars(cygrpc)["ExecuteBatchError"], grpc.aio.InternalError)
