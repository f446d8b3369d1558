"""The reading of calls' messages, over real gRPC with a server of nothing else."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from backend.core.errors import DeadlineExceeded, InvalidRequest, Overloaded
from backend.rpc.receiving import Receiver
from tests.one_method import METHOD, served


@asynccontextmanager
async def reading(receiver: Receiver, ends: Counter[type]) -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to a server that reads one message of each call; how the reads ended is counted."""

    async def handle(_: AsyncIterator[bytes], context: Any) -> bytes:
        ends[asyncio.Task] += 1  # one more has begun
        try:
            data = await receiver.read(context)
            ends[bytes] += 1
            return data
        except asyncio.CancelledError:
            ends[asyncio.CancelledError] += 1
            raise
        except (InvalidRequest, Overloaded, DeadlineExceeded) as error:
            ends[type(error)] += 1
            await context.abort(grpc.StatusCode.ABORTED, "")
            raise

    async with served(grpc.stream_unary_rpc_method_handler(handle)) as channel:
        yield channel


async def nothing(until: asyncio.Event) -> AsyncIterator[bytes]:
    """A message that does not come."""
    await until.wait()
    if not until.is_set():
        yield b""


def test_however_many_wait_each_gets_a_place() -> None:
    async def body() -> None:
        ends, over = Counter[type](), asyncio.Event()
        async with reading(Receiver(2, patience_s=0.1), ends) as channel:
            read = channel.stream_unary(METHOD)
            silent = [read(nothing(over), timeout=120) for _ in range(8)]
            async with asyncio.timeout(60):
                while ends[asyncio.Task] < len(silent):
                    await asyncio.sleep(0.01)
            assert await read(iter([b"x" * 9]), timeout=60) == b"x" * 9
            assert ends[Overloaded] >= 7
            over.set()
            await asyncio.gather(*silent, return_exceptions=True)

    asyncio.run(body())


def test_a_message_that_is_late_for_its_own_call_is_late() -> None:
    async def body() -> None:
        ends, over = Counter[type](), asyncio.Event()
        async with reading(Receiver(), ends) as channel:
            calls = [channel.stream_unary(METHOD)(nothing(over), timeout=0.2) for _ in range(3)]
            assert {await call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            over.set()
            async with asyncio.timeout(60):
                while sum(ends.values()) - ends[asyncio.Task] < len(calls):
                    await asyncio.sleep(0.01)
        assert InvalidRequest not in ends

    asyncio.run(body())
