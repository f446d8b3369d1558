"""Many clients at once, each answer known beforehand."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.asking import SECONDS, Answer, prompt, read, stream
from tests.e2e.worker import CHANNEL_OPTIONS, Worker

OPTIONS = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True, slots=True)
class Known:
    """A request, and what it is answered alone."""

    request: pb.PredictOptions
    text: str
    tokens: int

    def is_answered_by(self, answer: Answer) -> bool:
        """To the end, and with the same text."""
        return (answer.code, answer.text) == (grpc.StatusCode.OK, self.text) and answer.last.tokens == self.tokens


def known(worker: Worker, count: int, *, tokens: int = 4) -> list[Known]:
    """Different ones, greedy and drawn; asked one after another."""
    asked: list[Known] = []
    for index in range(count):
        drawn = {"Temperature": 1.0, "Seed": index + 1} if index % 2 else {}
        request = prompt(f"{index % 5} Once upon a time {index}", tokens + index % 5, IgnoreEOS=True, **drawn)
        answer = stream(worker.stub, request)
        assert answer.code is grpc.StatusCode.OK, answer.details
        asked.append(Known(request, answer.text, answer.last.tokens))
    return asked


async def wave(
    address: str,
    requests: Sequence[pb.PredictOptions],
    *,
    connections: int = 8,
    pause: float = 0.0,
    leave_after: int | None = None,
    seconds: float = SECONDS,
) -> list[Answer]:
    """Send all of them at once, over so many connections; the last two and `seconds` are as `read` takes them."""
    channels = [grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(connections)]
    try:
        stubs = [rpc.BackendStub(channel) for channel in channels]
        reading = [
            read(stubs[index % connections], request, pause=pause, leave_after=leave_after, seconds=seconds)
            for index, request in enumerate(requests)
        ]
        return list(await asyncio.gather(*reading))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def vanish(address: str, requests: Sequence[pb.PredictOptions], *, after_replies: int = 1) -> None:
    """Ask each on a connection of its own, which is closed when so many replies have come."""

    async def one(request: pb.PredictOptions) -> None:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            call = rpc.BackendStub(channel).PredictStream(request, timeout=SECONDS)
            for _ in range(after_replies):
                await call.read()

    await asyncio.gather(*(one(request) for request in requests))
