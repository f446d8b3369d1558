"""What the server offers beside the backend service, and how it stops."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from backend.config import ServerConfig
from backend.core.errors import WorkerUnavailable
from backend.pb import backend_pb2 as pb
from backend.rpc.address import AddressError
from backend.rpc.server import WorkerServer
from backend.translate.options import LoadDefaults
from tests.rpc.conftest import Worker, first, running_worker, status_of
from tests.rpc.fake_engine import FakeEngine

Run = Callable[..., None]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(worker: Worker, service: str = "") -> int:
    health: Any = health_pb2_grpc.HealthStub(worker.channel)
    return (await health.Check(health_pb2.HealthCheckRequest(service=service))).status


def services_of(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        return sorted(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_the_standard_health_service_knows_the_server_and_its_services(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        for service in ("", "backend.Backend", "backend.Info"):
            assert await health_of(worker, service) == SERVING
        assert (await status_of(health_of(worker, "nonsense")))[0] == grpc.StatusCode.NOT_FOUND

    scenario(test)


def test_reflection_is_on_for_a_loopback_address_and_can_be_turned_off(scenario: Run) -> None:
    async def shows(worker: Worker) -> None:
        assert {"backend.Backend", "backend.Info", "grpc.health.v1.Health"} <= set(
            await asyncio.to_thread(services_of, worker.address)
        )

    async def hides(worker: Worker) -> None:
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(services_of, worker.address)

    scenario(shows)
    scenario(hides, reflection=False)


def test_a_drain_refuses_new_calls_and_lets_the_running_one_finish(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = [None, *worker.engine.script]
        running = asyncio.ensure_future(first(worker.backend.Predict(pb.PredictOptions(Prompt="hi"))))
        await worker.engine.submitted.wait()
        health: Any = health_pb2_grpc.HealthStub(worker.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        draining = asyncio.ensure_future(worker.server.drain(grace_s=10.0))
        assert (await watch.read()).status == NOT_SERVING
        for call in (worker.backend.Predict(pb.PredictOptions(Prompt="hi")), worker.backend.Health(pb.HealthMessage())):
            code, details = await status_of(call)
            assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the worker is shutting down")
        worker.engine.answers[0].release.set()
        assert (await running).message == b"Hello"
        assert await draining

    scenario(test)


def test_what_outlasts_the_grace_ends_unavailable(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = [None]
        stream = worker.backend.PredictStream(pb.PredictOptions(Prompt="hi"))
        reading = asyncio.ensure_future(stream.read())
        await worker.engine.submitted.wait()
        assert not await worker.server.drain(grace_s=0.0)
        await worker.engine.close()
        await worker.server.stop()
        assert (await status_of(reading))[0] == grpc.StatusCode.UNAVAILABLE

    scenario(test)


def test_a_stopped_server_is_not_freed_while_the_loop_runs(loop: asyncio.Runner) -> None:
    """Another thread's collector would close what the loop reads gRPC's last events from."""

    async def stopped() -> weakref.ref[object]:
        async with running_worker() as worker:
            return weakref.ref(worker.server._server)  # type: ignore[arg-type]

    async def test() -> None:
        server = await stopped()
        gc.collect()
        assert server() is not None

    loop.run(test())


def test_an_open_health_watch_does_not_hold_up_the_stop(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        health: Any = health_pb2_grpc.HealthStub(worker.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        assert await worker.server.drain(grace_s=30.0)
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.wait_for(worker.server.stop(), timeout=30)

    scenario(test)


def server_at(address: str, **config: Any) -> WorkerServer:
    return WorkerServer(ServerConfig(address=address, **config), FakeEngine(), LoadDefaults())


def refused(loop: asyncio.Runner, address: str, **config: Any) -> str:
    async def start() -> None:
        await server_at(address, **config).start()

    with pytest.raises(AddressError) as error:
        loop.run(start())
    return str(error.value)


def test_an_address_that_others_can_reach_needs_a_token(loop: asyncio.Runner) -> None:
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0", "some-host:0"):
        assert "token" in refused(loop, address)


def test_such_an_address_needs_tls_where_tls_is_required(loop: asyncio.Runner) -> None:
    assert "--require-tls" in refused(loop, "0.0.0.0:0", token="t", require_tls=True)


def test_with_a_token_and_without_tls_it_starts_with_a_warning(scenario: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(worker: Worker) -> None:
        port = worker.address.rpartition(":")[2]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/backend.Backend/Health")
            reply = await call(b"", metadata=(("authorization", "Bearer t"),))
        assert pb.Reply.FromString(reply).message == b"OK"
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(services_of, f"127.0.0.1:{port}")

    scenario(test, address="0.0.0.0:0", token="t", load=False)
    assert [record.getMessage().split()[0] for record in caplog.records if "tls" in record.getMessage()] == ["no_tls"]


def test_a_port_in_use_is_an_address_error(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        with pytest.raises(AddressError, match="address in use"):
            await server_at(worker.address).start()
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"

    scenario(test)


def test_a_missing_certificate_is_an_address_error_that_names_the_file(loop: asyncio.Runner) -> None:
    assert "/no/cert" in refused(loop, "127.0.0.1:0", tls_certificate="/no/cert", tls_key="/no/cert")


def test_a_certificate_without_its_key_is_told_what_is_missing(loop: asyncio.Runner) -> None:
    assert "--tls-key is missing" in refused(loop, "127.0.0.1:0", tls_certificate="/no/cert")
    assert "--tls-certificate is missing" in refused(loop, "127.0.0.1:0", tls_key="/no/key")


def test_a_unix_socket_serves(loop: asyncio.Runner, socket_folder: Path) -> None:
    async def main() -> None:
        async with running_worker(address=f"unix:{socket_folder}/s") as worker:
            assert worker.address == f"unix:{socket_folder}/s"
            assert (await worker.backend.Predict(pb.PredictOptions(Prompt="hi"))).message == b"Hello"

    loop.run(main())


def test_a_dead_engine_ends_its_streams_unavailable(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = [None]
        reading = asyncio.ensure_future(worker.backend.PredictStream(pb.PredictOptions(Prompt="hi")).read())
        await worker.engine.submitted.wait()
        worker.engine.answers[0].fail(WorkerUnavailable("the engine is dead"))
        assert await status_of(reading) == (grpc.StatusCode.UNAVAILABLE, "the engine is dead")

    scenario(test)
