"""A real server over a localhost socket, with the scripted engine behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from backend.config import ServerConfig
from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub, InfoStub, PromptCacheStub
from backend.rpc.server import WorkerServer
from backend.translate.options import LoadDefaults
from tests.rpc.fake_engine import FakeEngine


class Worker:
    """What a test holds: the server, its engine, and a client."""

    def __init__(self, server: WorkerServer, engine: FakeEngine, address: str, channel: grpc.aio.Channel) -> None:
        self.server, self.engine, self.address, self.channel = (server, engine, address, channel)
        self.backend: Any = BackendStub(channel)
        self.info: Any = InfoStub(channel)
        self.prompt_cache: Any = PromptCacheStub(channel)

    async def raw(self, method: str, data: bytes, **call: Any) -> bytes:
        return await self.channel.unary_unary(method)(data, **call)


@asynccontextmanager
async def running_worker(
    *, load: bool = True, engine: FakeEngine | None = None, **config: Any
) -> AsyncIterator[Worker]:
    engine = engine or FakeEngine()
    server = WorkerServer(ServerConfig(**{"address": "127.0.0.1:0", **config}), engine, LoadDefaults())
    address = await server.start()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        worker = Worker(server, engine, address, channel)
        if load:
            token = config.get("token")
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            result = await worker.backend.LoadModel(pb.ModelOptions(Model="m"), metadata=metadata)
            assert result.success
        try:
            yield worker
        finally:
            await engine.close()
            await server.stop()


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all: grpc.aio binds itself to the first it meets."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def scenario(loop: asyncio.Runner) -> Callable[..., None]:
    """Run `async def test(worker)` against a worker; keywords go to `running_worker`."""

    def run(test: Callable[[Worker], Awaitable[None]], **config: Any) -> None:
        async def main() -> None:
            async with running_worker(**config) as worker:
                await asyncio.wait_for(test(worker), timeout=60)

        loop.run(main())

    return run


async def status_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Code and details of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call succeeded")


async def first(call: Any) -> Any:
    """The first reply of a call of either kind."""
    return await (call.read() if hasattr(call, "read") else call)
