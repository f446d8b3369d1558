"""A client that floods the server: what the others notice."""

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from backend.engine.preparing.lanes import MOST_UNQUEUED
from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.e2e.asking import chat, prompt, stream
from tests.e2e.http2 import open_and_reset
from tests.e2e.oracle import check_log
from tests.e2e.worker import TINY_CHAT, Worker, wait_until
from tests.tiers import slow

CALLS = 300
TEXT = "Once upon a time there was a little house. " * 1400
FLOODS = {
    "TokenizeString": pb.PredictOptions(Prompt=TEXT),
    "Detokenize": pb.DetokenizeRequest(tokens=[300] * (1 << 18)),
}
Code = grpc.StatusCode
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def ask_until(stop: threading.Event, worker: Worker, ends: Counter[grpc.StatusCode]) -> None:
    """Health again and again on a connection of its own."""
    with grpc.insecure_channel(worker.address, options=OWN_CONNECTION) as channel:
        backend = BackendStub(channel)
        while not stop.is_set():
            try:
                backend.Health(pb.HealthMessage(), timeout=30)
                ends[Code.OK] += 1
            except grpc.RpcError as error:
                ends[error.code()] += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [slow("/backend.Backend/Health"), "/backend.Backend/PredictStream"])
def test_calls_that_are_opened_and_reset_without_end_cost_no_other_client_an_answer(worker: Worker, path: str) -> None:
    ends: Counter[grpc.StatusCode] = Counter()
    stop = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask_until, stop, worker, ends) for _ in range(3)]
        flooding = [pool.submit(open_and_reset, worker.address, path, 10_000) for _ in range(3)]
        while not all(flood.done() for flood in flooding):
            ends[stream(worker.stub, prompt("Once upon a time", 3)).code] += 1
        stop.set()
        for task in (*flooding, *asking):
            task.result(60)
    assert ends[Code.OK] >= 3
    assert set(ends) == {Code.OK}, ends


@pytest.mark.slow
@pytest.mark.parametrize("method", FLOODS)
def test_a_chat_is_answered_before_what_waits_for_the_tokenizer(worker: Worker, method: str) -> None:
    ends: Counter[grpc.StatusCode] = Counter()
    words: set[str] = set()

    def ended(call: Any) -> None:
        ends[call.code()] += 1
        words.add(call.details())

    with grpc.insecure_channel(worker.address, options=OWN_CONNECTION) as channel:
        ask = getattr(BackendStub(channel), method)
        calls = [ask.future(FLOODS[method], timeout=600) for _ in range(CALLS)]
        for call in calls:
            call.add_done_callback(ended)
        # By then there are as many as there may be.
        wait_until(lambda: ends.total() >= 10, "the first ends")
        before = ends[Code.OK]
        assert stream(worker.stub, chat("hello", 2)).code is Code.OK
        meanwhile = ends[Code.OK] - before
        wait_until(lambda: ends.total() == CALLS, "all ends", 600)
    # Behind them it would come after all that had a place.
    assert meanwhile < MOST_UNQUEUED // 2, ends
    assert set(ends) == {Code.OK, Code.RESOURCE_EXHAUSTED}, ends
    assert ends[Code.OK] >= MOST_UNQUEUED
    assert words == {
        "",
        f"{MOST_UNQUEUED} calls of TokenizeString, Detokenize and ModelMetadata in flight, limit {MOST_UNQUEUED}",
    }


@pytest.mark.slow
def test_free_a_load_and_the_end_leave_what_waits_for_the_tokenizer_undone() -> None:
    gone = {Code.OK, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.FAILED_PRECONDITION}

    def flooded(worker: Worker) -> list[Any]:
        calls = [worker.stub.TokenizeString.future(FLOODS["TokenizeString"], timeout=600) for _ in range(CALLS // 2)]
        wait_until(lambda: any(call.done() for call in calls), "the first end")
        return calls

    with Worker() as worker:
        for end in (
            lambda: worker.stub.Free(pb.HealthMessage(), timeout=60),
            lambda: worker.must_load(TINY_CHAT, "max_rows:3"),
        ):
            worker.must_load()
            calls = flooded(worker)
            end()
            assert {Code.ABORTED} <= {call.code() for call in calls} <= gone
        calls = flooded(worker)
        worker.signal(signal.SIGTERM)
        assert {Code.UNAVAILABLE} <= {call.code() for call in calls} <= gone | {Code.UNAVAILABLE}
    # It has ended with code 0.
    check_log(worker)
