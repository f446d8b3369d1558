"""Messages of many calls: together they take a bounded number of bytes, and small ones are always taken."""

import asyncio
import json
from collections.abc import Callable

import grpc
import pytest

from backend.core.errors import Overloaded
from backend.core.request import GenerationRequest
from backend.pb import backend_pb2 as pb
from backend.rpc.held_messages import HeldMessages
from tests.rpc.conftest import Worker, status_of
from tests.rpc.fake_engine import FakeAnswer, FakeEngine, answer

MIB = 1 << 20
LARGE = pb.PredictOptions(Prompt="a" * MIB)


def test_sizes_count_until_the_call_ends_and_bytes_are_kept_until_they_are_taken() -> None:
    messages = HeldMessages(3 * MIB)
    first, second, third, small = (messages.begin() for _ in range(4))
    first.put(b"a" * 2 * MIB)
    assert (len(first.take()), first.take(), messages.bytes) == (2 * MIB, b"", 2 * MIB)
    with pytest.raises(Overloaded, match=f"{4 * MIB} bytes with this one, limit {3 * MIB}"):
        second.put(b"a" * 2 * MIB)
    assert (second.size, second.take()) == (None, b"")
    small.put(b"a" * 100)
    second.let_go()
    first.let_go()
    third.put(b"a" * 2 * MIB)
    small.let_go()
    third.let_go()
    assert messages.bytes == 0


class Preparing(FakeEngine):
    """Takes as long to prepare a request as the test likes."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.go_on = asyncio.Event()

    async def submit(self, request: GenerationRequest) -> FakeAnswer:
        self.waiting += 1
        try:
            await self.go_on.wait()
        finally:
            self.waiting -= 1
        return await super().submit(request)

    async def has(self, waiting: int) -> None:
        """Wait until so many are being prepared."""
        while self.waiting != waiting:
            await asyncio.sleep(0.001)


async def ask(worker: Worker, request: pb.PredictOptions, *, streamed: bool) -> None:
    if streamed:
        async for _ in worker.backend.PredictStream(request):
            pass
    else:
        await worker.backend.Predict(request)


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
def test_more_than_the_memory_is_for_is_refused_until_others_are_prepared(
    scenario: Callable[..., None], monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr("backend.rpc.server.HeldMessages", lambda most_bytes=4 * MIB: HeldMessages(most_bytes))
    engine = Preparing()

    async def test(worker: Worker) -> None:
        def begin(request: pb.PredictOptions) -> "asyncio.Task[None]":
            return asyncio.create_task(ask(worker, request, streamed=streamed))

        engine.script = [None, *answer("yes")]
        running = [begin(LARGE) for _ in range(3)]
        await engine.has(3)
        code, details = await status_of(ask(worker, LARGE, streamed=streamed))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "messages of running calls" in details
        # Small ones go on.
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"
        running.append(begin(pb.PredictOptions(Prompt="small")))
        await engine.has(4)
        # Who leaves leaves nothing behind.
        for task in running:
            task.cancel()
        await engine.has(0)
        # What runs is tokens: neither a long answer nor a reader that does not read keeps others out.
        engine.go_on.set()
        running = []
        for _ in range(6):
            running.append(begin(LARGE))
            while len(engine.answers) < len(running):
                await asyncio.sleep(0.001)
        for each in engine.answers:
            each.release.set()
        await asyncio.gather(*running)

    scenario(test, engine=engine)


def test_json_counts_for_what_it_becomes(scenario: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.rpc.server.HeldMessages", lambda most_bytes=4 * MIB: HeldMessages(most_bytes))
    engine = Preparing()
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"x": [{"a": 1}] * 15_000}}}])
    assert len(tools) < MIB / 4

    async def test(worker: Worker) -> None:
        message = pb.Message(role="user", content="x")
        request = pb.PredictOptions(Messages=[message], UseTokenizerTemplate=True, Tools=tools)
        running = asyncio.create_task(ask(worker, request, streamed=False))
        await engine.has(1)
        code, _ = await status_of(ask(worker, request, streamed=False))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        engine.go_on.set()
        await running
        await ask(worker, request, streamed=False)

    scenario(test, engine=engine)


def test_a_message_that_a_shut_gate_refuses_is_not_kept() -> None:
    messages = HeldMessages()
    message = messages.begin()
    message.put(b"a" * MIB)
    message.weigh(MIB)
    message.let_go()
    message.let_go()
    assert (message.take(), messages.bytes, message.size) == (b"", 0, 2 * MIB)
