"""Calls that nobody has taken yet, and what others cancel under a call."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.rpc.conftest import Worker, running_worker, status_of
from tests.rpc.fake_engine import FakeEngine

CALLS = 24
BUSY_SECONDS = 32.0


def ends_of_calls(address: str, begun: Event) -> Counter[str]:
    with grpc.insecure_channel(address) as channel:
        stub = BackendStub(channel)
        calls = [stub.Health.future(pb.HealthMessage(), timeout=120) for _ in range(CALLS)]
        begun.set()
        return Counter(str(call.code()) for call in calls)


@pytest.mark.slow
def test_a_call_waits_for_a_busy_loop_as_long_as_its_client_does(loop: asyncio.Runner) -> None:
    async def main() -> None:
        async with running_worker() as worker:
            with ThreadPoolExecutor(1) as thread:
                begun = Event()
                ends = asyncio.get_running_loop().run_in_executor(thread, ends_of_calls, worker.address, begun)
                await asyncio.to_thread(begun.wait)
                time.sleep(BUSY_SECONDS)  # noqa: ASYNC251 (the loop is what is to be busy)
                assert await ends == {str(grpc.StatusCode.OK): CALLS}

    loop.run(main())


class _Cancelling(FakeEngine):
    """Waits for something that somebody else cancels."""

    async def detokenize(self, tokens: object) -> str:
        waited_for = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waited_for.cancel)
        return await waited_for


def test_what_is_cancelled_under_a_call_is_a_fault_of_ours(
    scenario: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(worker: Worker) -> None:
        code, details = await status_of(worker.backend.Detokenize(pb.DetokenizeRequest(tokens=[1])))
        assert code is grpc.StatusCode.INTERNAL
        assert details.rpartition(" ")[2] in caplog.text

    scenario(test, engine=_Cancelling())
