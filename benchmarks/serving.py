"""What benchmarks of the whole worker share: a spawned worker, models made once, and a light client."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "build" / "benchmarks"


def model(name: str, **options: int) -> Path:
    """A random-weight model of `tests.models.plain_kv_model`, written at the first use."""
    from tests.models import plain_kv_model

    path = MODELS / name
    if not (path / "tokenizer_config.json").exists():
        # In a process of its own: this one must not import MLX, whose threads would share the cores.
        code = f"from tests.models import {plain_kv_model.__name__}; from pathlib import Path; "
        code += f"{plain_kv_model.__name__}(Path({str(path)!r}), **{options!r})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return path


@dataclass(slots=True)
class Timeline:
    """When each piece of one answer arrived, in seconds since the request was sent."""

    arrivals: list[float] = field(default_factory=list[float])
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    text: str = ""

    @property
    def first(self) -> float:
        """Time to the first piece."""
        return self.arrivals[0] if self.arrivals else self.seconds


@dataclass(slots=True)
class Worker:
    """A running worker and a channel to it."""

    process: subprocess.Popen[bytes]
    stub: rpc.BackendStub
    info: rpc.InfoStub
    channel: grpc.aio.Channel
    address: str = ""

    async def load(self, path: Path, *options: str) -> None:
        """LoadModel, or fail. Steps of one token, unless the options say otherwise: random models repeat themselves."""
        options = ("speculation:off", *options)  # the last one counts
        result = await self.stub.LoadModel(pb.ModelOptions(Model=str(path), ModelFile=str(path), Options=options))
        if not result.success:
            raise RuntimeError(result.message)

    async def stream(self, request: pb.PredictOptions) -> Timeline:
        """Run one PredictStream to its end."""
        line = Timeline()
        started = time.perf_counter()
        call = self.stub.PredictStream(request)
        async for reply in call:
            if reply.message or reply.chat_deltas:
                line.arrivals.append(time.perf_counter() - started)
                line.text += reply.message.decode()
            line.tokens, line.prompt_tokens = reply.tokens, reply.prompt_tokens
        line.seconds = time.perf_counter() - started
        trailing = dict(await call.trailing_metadata())
        line.cached_tokens = int(trailing.get("x-prompt-cache-tokens", "0"))
        return line

    async def queue(self) -> dict[str, float]:
        """The Info service's queue figures."""
        return dict((await self.info.Get(pb.InfoRequest())).queue)

    async def blas(self) -> str:
        """Which BLAS the worker runs on."""
        return (await self.info.Get(pb.InfoRequest())).blas

    def cpu_seconds(self) -> float:
        """User and system time of the worker so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


@asynccontextmanager
async def worker(
    *arguments: str, threads: int | None = None, program: Sequence[str] = ("-m", "backend")
) -> AsyncIterator[Worker]:
    """A worker on a free port; `threads` bounds its BLAS, `program` is what Python is told to run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = dict(os.environ)
    if threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = str(threads)
    process = subprocess.Popen(  # noqa: ASYNC220  returns at once
        [sys.executable, *program, "--addr", address, "--log-level", "warning", *arguments],
        cwd=ROOT,
        env=environment,
    )
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = rpc.BackendStub(channel)
            await stub.Health(pb.HealthMessage(), wait_for_ready=True, timeout=30)
            yield Worker(process, stub, rpc.InfoStub(channel), channel, address)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
