"""Messages of many calls: together they take a bounded number of bytes, and small ones are always taken."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from backend.core.errors import Overloaded
from backend.pb import backend_pb2 as pb
from backend.rpc.held_messages import HeldMessages
from tests.rpc.conftest import Worker, status_of
from tests.rpc.fake_engine import answer

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
    second.end()
    first.end()
    third.put(b"a" * 2 * MIB)
    small.end()
    third.end()
    assert messages.bytes == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
def test_more_than_the_memory_is_for_is_refused_until_others_have_ended(
    scenario: Callable[..., None], monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr("backend.rpc.server.HeldMessages", lambda most_bytes=4 * MIB: HeldMessages(most_bytes))

    async def test(worker: Worker) -> None:
        async def ask(request: pb.PredictOptions) -> None:
            if streamed:
                async for _ in worker.backend.PredictStream(request):
                    pass
            else:
                await worker.backend.Predict(request)

        worker.engine.script = [None, *answer("yes")]
        running = [asyncio.create_task(ask(LARGE)) for _ in range(3)]
        while len(worker.engine.answers) < len(running):
            await asyncio.sleep(0.001)
        code, details = await status_of(ask(LARGE))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "messages of running calls" in details
        # Small ones go on.
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"
        running.append(asyncio.create_task(ask(pb.PredictOptions(Prompt="small"))))
        while len(worker.engine.answers) < len(running):
            await asyncio.sleep(0.001)
        for each in worker.engine.answers:
            each.release.set()
        await asyncio.gather(*running)
        # Of those that were cancelled in their middle nothing stays counted either.
        for _ in range(6):
            left = asyncio.create_task(ask(LARGE))
            known = len(worker.engine.answers)
            while len(worker.engine.answers) == known:
                await asyncio.sleep(0.001)
            left.cancel()
            await worker.engine.answers[-1].cancelled.wait()
        worker.engine.script = answer("yes")
        await ask(LARGE)

    scenario(test)
