"""`grpc.health.v1` and reflection: their messages are read and bounded as ours are."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from backend.pb import backend_pb2 as pb
from backend.rpc.off_loop import INLINE_BYTES
from backend.rpc.receiving import SMALL_READ_TOGETHER
from tests.e2e.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, header_block
from tests.rpc.conftest import Worker, status_of

Run = Callable[..., None]
CODES = grpc.StatusCode
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PATHS = (CHECK, WATCH, REFLECTION)
Ask = reflection_pb2.ServerReflectionRequest
SERVING = health_pb2.HealthCheckResponse.SERVING


async def health_of(worker: Worker, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(worker.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)).status


def reflection_of(worker: Worker) -> Any:
    channel: Any = worker.channel  # its type has no word of aio
    return reflection_pb2_grpc.ServerReflectionStub(channel)


@pytest.mark.parametrize("path", PATHS)
def test_a_large_message_is_resource_exhausted_and_a_malformed_one_an_invalid_argument(
    scenario: Run, path: str
) -> None:
    async def test(worker: Worker) -> None:
        for data, code in (
            (b"\x0a\x84\x80\x01" + b"a" * INLINE_BYTES, CODES.RESOURCE_EXHAUSTED),
            (b"\xff" * 9, CODES.INVALID_ARGUMENT),
            (b"\x0a\x02\xff\xfe", CODES.INVALID_ARGUMENT),
        ):
            assert (await status_of(worker.channel.stream_stream(path)(iter([data]), timeout=60).read()))[0] is code
        assert await health_of(worker) == SERVING
        assert all(method.partition(".")[0] == "Backend" for method, _ in worker.server.calls.copy())

    scenario(test)


def test_a_health_call_without_a_message_is_told_so(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        for path in (CHECK, WATCH):
            call = worker.channel.stream_stream(path)(iter(()), timeout=60)
            code, details = await status_of(call.read())
            assert (code, "without a message" in details) == (CODES.INVALID_ARGUMENT, True)

    scenario(test)


def test_reflection_answers_each_request_of_a_stream_until_the_client_ends_it(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        stub = reflection_of(worker)
        asks = [
            Ask(list_services=""),
            Ask(file_containing_symbol="backend.Backend"),
            Ask(file_by_filename="no/such.proto"),
            Ask(),
            Ask(list_services=""),
        ]
        answers = [reply async for reply in stub.ServerReflectionInfo(iter(asks), timeout=60)]
        assert [reply.WhichOneof("message_response") for reply in answers] == [
            "list_services_response",
            "file_descriptor_response",
            "error_response",
            "error_response",
            "list_services_response",
        ]
        assert [reply.original_request for reply in answers[1:3]] == asks[1:3]
        assert not [reply async for reply in stub.ServerReflectionInfo(iter(()), timeout=60)]

    scenario(test)


def test_what_does_not_come_holds_up_no_other_service(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        over = asyncio.Event()

        async def asks() -> AsyncIterator[Any]:
            yield Ask(list_services="")
            await over.wait()

        stub = reflection_of(worker)
        idle = [stub.ServerReflectionInfo(asks()) for _ in range(SMALL_READ_TOGETHER)]
        for call in idle:
            await call.read()
        assert await health_of(worker) == SERVING
        assert (await worker.backend.Health(pb.HealthMessage(), timeout=60)).message == b"OK"
        # Had one of them waited for a place, an idle one would have been ended for it.
        assert not any(call.done() for call in idle)
        over.set()
        assert {await call.code() for call in idle} == {CODES.OK}

    scenario(test)


def test_a_watch_tells_of_every_change_and_of_a_service_that_there_is_not(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        stub: Any = health_pb2_grpc.HealthStub(worker.channel)
        told = health_pb2.HealthCheckResponse
        ours, unknown = (stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("backend.Info", "x"))
        assert (await ours.read()).status == SERVING
        assert (await unknown.read()).status == told.SERVICE_UNKNOWN
        await worker.server.drain(grace_s=10.0)
        assert (await ours.read()).status == told.NOT_SERVING
        assert await health_of(worker) == told.NOT_SERVING
        waiting = asyncio.ensure_future(unknown.read())
        await asyncio.sleep(0)
        assert not waiting.done()
        unknown.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    scenario(test)


def test_a_watch_whose_client_takes_nothing_holds_up_neither_others_nor_the_stop(scenario: Run) -> None:
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    call = frame(HEADERS, END_HEADERS, 1, header_block(WATCH)) + frame(DATA, END_STREAM, 1, bytes(5))

    async def test(worker: Worker) -> None:
        host, _, port = worker.address.rpartition(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(PREFACE + no_window + call)
            stub: Any = health_pb2_grpc.HealthStub(worker.channel)
            async with asyncio.timeout(30):
                await asyncio.to_thread(silent.recv, 1 << 16)
                for _ in range(20):  # whichever comes first
                    watch = stub.Watch(health_pb2.HealthCheckRequest())
                    assert (await watch.read()).status == SERVING
                    watch.cancel()
                assert await worker.server.drain(grace_s=10.0)

    scenario(test)
