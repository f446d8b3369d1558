"""A client that floods the server: what the others notice."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.e2e.asking import prompt, stream
from tests.e2e.http2 import open_and_reset
from tests.e2e.worker import Worker
from tests.tiers import slow

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def ask_until(stop: threading.Event, worker: Worker, ends: Counter[grpc.StatusCode]) -> None:
    """Health again and again on a connection of its own."""
    with grpc.insecure_channel(worker.address, options=OWN_CONNECTION) as channel:
        backend = BackendStub(channel)
        while not stop.is_set():
            try:
                backend.Health(pb.HealthMessage(), timeout=30)
                ends[grpc.StatusCode.OK] += 1
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
    assert ends[grpc.StatusCode.OK] >= 3
    assert set(ends) == {grpc.StatusCode.OK}, ends
