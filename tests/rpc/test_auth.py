"""The token: on every call, or nothing happens."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from backend.pb import backend_pb2 as pb
from backend.rpc.auth import TokenInterceptor
from tests.rpc.conftest import Worker, status_of

Run = Callable[..., None]
TOKEN = "secret"
RIGHT = (("authorization", f"Bearer {TOKEN}"),)
WRONG: dict[str, tuple[tuple[str, Any], ...]] = {
    "missing": (),
    "wrong": (("authorization", "Bearer wrong"),),
    "prefix": (("authorization", f"Bearer {TOKEN[:-1]}"),),
    "bare": (("authorization", TOKEN),),
    "empty": (("authorization", ""),),
    "twice": RIGHT * 2,
    "right and wrong": (*RIGHT, ("authorization", "Bearer wrong")),
    "other header": (("x-authorization", f"Bearer {TOKEN}"),),
}


def methods() -> list[str]:
    services = pb.DESCRIPTOR.services_by_name.values()
    ours = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]
    return [*ours, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/backend.Backend/Nonsense"]


@pytest.mark.parametrize("metadata", WRONG.values(), ids=WRONG.keys())
def test_no_method_of_any_kind_answers_without_the_token(scenario: Run, metadata: Any) -> None:
    async def test(worker: Worker) -> None:
        for method in methods():
            code, _ = await status_of(worker.raw(method, b"", metadata=metadata))
            assert code == grpc.StatusCode.UNAUTHENTICATED, method
            stream = worker.channel.unary_stream(method)(b"", metadata=(("authorization", "Bearer no"),))
            assert (await status_of(stream.read()))[0] == grpc.StatusCode.UNAUTHENTICATED, method
        assert worker.engine.requests == []
        assert worker.engine.loads == []

    scenario(test, token=TOKEN, load=False)


def test_reflection_needs_the_token_too(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        call = worker.channel.stream_stream(method)(iter([b""]))
        assert (await status_of(call.read()))[0] == grpc.StatusCode.UNAUTHENTICATED

    scenario(test, token=TOKEN, load=False)


def test_every_kind_of_method_answers_with_the_token(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        assert (await worker.backend.Health(pb.HealthMessage(), metadata=RIGHT)).message == b"OK"
        stream = worker.backend.PredictStream(pb.PredictOptions(Prompt="hi"), metadata=RIGHT)
        assert b"".join([reply.message async for reply in stream]) == b"Hello"
        health: Any = health_pb2_grpc.HealthStub(worker.channel)
        status = await health.Check(health_pb2.HealthCheckRequest(), metadata=RIGHT)
        assert status.status == health_pb2.HealthCheckResponse.SERVING

    scenario(test, token=TOKEN)


class Call(NamedTuple):
    """What gRPC tells an interceptor."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...]


@pytest.mark.parametrize(
    ("header", "looked_up"),
    [("Bearer s\u00e9cret", True), ("Bearer s\u00e9cret".encode(), True), ("Bearer \udce9", False), (b"\xff", False)],
)
def test_bytes_that_are_not_ascii_are_compared_and_never_an_error(
    loop: asyncio.Runner, header: str | bytes, looked_up: bool
) -> None:
    # Python's client sends ASCII only, so the interceptor is asked itself.
    asked: list[Any] = []

    async def look_up(call: Any) -> Any:
        asked.append(call)

    async def ask() -> None:
        await TokenInterceptor("s\u00e9cret").intercept_service(look_up, Call("/x", (("authorization", header),)))

    loop.run(ask())
    assert bool(asked) is looked_up
