"""Messages that do not come to their end: what they cost, and whom."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from backend.pb import backend_pb2 as pb
from backend.rpc.held_messages import MOST_BYTES
from backend.rpc.receiving import PATIENCE_S, READ_TOGETHER, SMALL_READ_TOGETHER
from tests import observed
from tests.e2e.asking import prompt, stream
from tests.e2e.half_sent import half_sent
from tests.e2e.worker import Worker, wait_until

PREDICT = "/backend.Backend/Predict"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
MESSAGE_BYTES = 4 << 20
CALLS = 4 * READ_TOGETHER
# gRPC lets a call begin with what it may send before anybody has asked for it.
BEGINNING_BYTES = 256 << 10
LEFT_BYTES = 64 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "together"),
    [(PREDICT, READ_TOGETHER), *((path, SMALL_READ_TOGETHER) for path in (CHECK, WATCH, REFLECTION))],
)
def test_messages_without_an_end_take_bounded_memory_and_no_others_time(
    worker: Worker, path: str, together: int
) -> None:
    before = observed.resident_bytes(worker.pid)
    with half_sent(worker.address, path, CALLS, MESSAGE_BYTES) as connection:
        far = sum(size > BEGINNING_BYTES for size in connection.sent.values())
        assert together // 2 < far <= together, connection.sent
        taken = observed.resident_bytes(worker.pid) - before
        assert taken < together * MESSAGE_BYTES + CALLS * BEGINNING_BYTES + LEFT_BYTES
        # Another connection is served at once, while those have their patience still.
        assert stream(worker.stub, prompt("Once upon a time", 3)).code is grpc.StatusCode.OK
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
    wait_until(lambda: observed.resident_bytes(worker.pid) < before + LEFT_BYTES, "the memory goes back")


@pytest.mark.slow
def test_calls_that_wait_take_the_places_of_what_does_not_come(worker: Worker) -> None:
    waiting = 8
    began = time.monotonic()
    with half_sent(worker.address, PREDICT, READ_TOGETHER + waiting, 1 << 20) as connection:
        assert connection.wait_for_ends(waiting, 60)
        assert time.monotonic() - began >= PATIENCE_S
        # The others may go on: nobody waits any more.
        assert not connection.wait_for_ends(waiting + 1, PATIENCE_S / 5)


@pytest.mark.slow
def test_a_reflection_stream_that_is_idle_gives_its_place_to_who_waits(worker: Worker) -> None:
    over = threading.Event()

    def asks() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(60)

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
    try:
        idle = [stub.ServerReflectionInfo(asks()) for _ in range(SMALL_READ_TOGETHER)]
        for call in idle:
            next(call)
        assert next(stub.ServerReflectionInfo(asks(), timeout=60)).list_services_response.service
        ended = [call for call in idle if call.done()]
        assert [call.code() for call in ended] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    finally:
        over.set()


@pytest.mark.slow
def test_hundreds_of_large_messages_take_bounded_memory(worker: Worker) -> None:
    """Four times what all together may have. What is just being read comes to it, and texts are made of them."""
    size = 8 << 20
    data = prompt("w" * size, 3).SerializeToString()
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    before, most = observed.resident_bytes(worker.pid), 0
    with ExitStack() as stack:
        clients = stack.enter_context(ThreadPoolExecutor(4 * MOST_BYTES // size))
        channel = stack.enter_context(grpc.insecure_channel(worker.address, options))
        call = channel.unary_unary(PREDICT)
        asked = [clients.submit(lambda: call.future(data, timeout=120).code()) for _ in range(4 * MOST_BYTES // size)]
        while not all(one.done() for one in asked):
            most = max(most, observed.resident_bytes(worker.pid) - before)
            assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
            time.sleep(0.01)
    ends = Counter(one.result() for one in asked)
    assert ends.keys() <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert most < 3 * MOST_BYTES + READ_TOGETHER * size
    wait_until(lambda: observed.resident_bytes(worker.pid) < before + LEFT_BYTES, "the memory goes back")


def test_a_call_without_a_message_is_told_so(worker: Worker) -> None:
    call = worker.channel.stream_unary(PREDICT)
    with pytest.raises(grpc.RpcError) as ended:
        call(iter(()), timeout=60)
    assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert "without a message" in str(ended.value)
