"""A request's memory is free when its answer is sent, without a collection of garbage."""

import asyncio
import gc
import tracemalloc
import weakref
from collections.abc import Callable

import pytest

from backend.pb import backend_pb2 as pb
from backend.rpc.methods import answer_to
from tests.rpc.conftest import Worker, status_of

Run = Callable[..., None]
MIB = 1 << 20
LARGE = "a" * (2 * MIB)
REFUSED = {
    "before it is parsed": pb.PredictOptions(Prompt=LARGE, Tools=LARGE),
    "after it is parsed": pb.PredictOptions(Prompt=LARGE, Temperature=-1),
}


async def kept_bytes(refuse: Callable[[], object], times: int) -> int:
    """Traced bytes that so many calls leave behind for longer than their threads and tasks take to end."""
    await refuse()  # type: ignore[misc]
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(times):
        await refuse()  # type: ignore[misc]
    # The client may have the status before the handler's task, or the thread that parsed, has let the request go.
    for _ in range(3000):
        kept = tracemalloc.get_traced_memory()[0] - before
        if kept < MIB:
            break
        await asyncio.sleep(0.01)
    return kept


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_request_leaves_nothing(scenario: Run, request_: pb.PredictOptions, streamed: bool) -> None:
    data = request_.SerializeToString()

    async def test(worker: Worker) -> None:
        async def refuse() -> None:
            if streamed:
                call = worker.channel.unary_stream("/backend.Backend/PredictStream")(data)
                await status_of(anext(aiter(call)))
            else:
                await status_of(worker.raw("/backend.Backend/Predict", data))

        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            assert await kept_bytes(refuse, 5) < MIB
        finally:
            tracemalloc.stop()
            gc.enable()

    scenario(test)


def test_a_call_that_is_cancelled_is_freed_without_a_collection() -> None:
    class Thing:
        pass

    def call() -> weakref.ref[Thing]:
        thing = Thing()
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                answer_to(error, None)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            return weakref.ref(thing)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()
