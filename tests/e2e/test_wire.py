"""What reaches the port that no gRPC client sends: odd calls, bombs, floods, connections that say nothing."""

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import prompt, stream
from tests.e2e.http2 import (
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    connect,
    frame,
    header_block,
    status_of_call,
)
from tests.e2e.oracle import Golden
from tests.e2e.worker import Worker
from tests.observed import growth
from tests.tiers import slow

STORY = "Once upon a time"
PREDICT, STREAM, HEALTH = "/backend.Backend/Predict", "/backend.Backend/PredictStream", "/backend.Backend/Health"
SHORT = prompt(STORY, 3).SerializeToString()
OK, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL
LATE, INVALID = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INVALID_ARGUMENT
MIB = 1 << 20


@pytest.mark.parametrize(
    ("timeout", "code"),
    [
        pytest.param("abc", INTERNAL, id="abc"),
        *(slow(text, INTERNAL, name=text) for text in ("-1S", "S", "1n1n")),
        pytest.param("99999999H", OK, id="99999999H"),
        slow("999999999999S", OK, name="999999999999S"),
        pytest.param("0n", LATE, id="0n"),
    ],
)
def test_a_grpc_timeout_that_is_malformed_is_refused_and_a_huge_one_is_as_none(
    worker: Worker, timeout: str, code: grpc.StatusCode
) -> None:
    before = worker.queue()["requests"]
    assert status_of_call(worker.address, PREDICT, SHORT, {"grpc-timeout": timeout}) == code.value[0]
    worker.rest()
    assert worker.queue()["requests"] == before + (code is OK)


def test_a_path_that_is_not_utf8_is_unimplemented_and_the_worker_goes_on(worker: Worker) -> None:
    for path in ("/b\udcf0(.Backend/Predict", "\udcff"):
        assert status_of_call(worker.address, path, b"") == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert status_of_call(worker.address, HEALTH, b"", {"authorization": "Bearer hush\udcff"}) == 0
    assert not any("hush" in line for line in worker.log.lines)
    assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"


@pytest.mark.parametrize("whole", [True, slow(False)])
def test_calls_without_a_message_are_told_so_or_wait_as_long_as_their_clients_do(
    worker: Worker, standing_worker: tuple[Worker, Golden], whole: bool
) -> None:
    """Ended by the client before any message, or left open: they take no place in the queue and hold up nobody."""
    ended = INVALID if whole else LATE
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        if not whole:
            over.wait(60)
        yield from ()

    before = worker.queue()
    with standing_worker[1].beside(worker):
        calls = [worker.channel.stream_unary(path).future(nothing(), timeout=2) for path in (PREDICT, HEALTH) * 20]
        streams = [worker.channel.stream_stream(STREAM)(nothing(), timeout=600) for _ in range(20)]
        assert stream(worker.stub, prompt(STORY, 3)).code is OK
        assert {call.code() for call in calls} == {ended}
        for call in streams:
            call.cancel()
        over.set()
    worker.rest()
    assert worker.queue()["requests"] == before["requests"] + 2


def test_messages_that_are_small_until_they_are_unpacked_are_refused_in_little_memory(worker: Worker) -> None:
    """Of 48 MiB each, twenty at once. One within the limit is answered."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(bytes(48 * MIB)) + packer.flush()
    packer = zlib.compressobj(wbits=31)
    small = packer.compress(SHORT) + packer.flush()
    with growth(worker.pid) as grown, ThreadPoolExecutor(20) as clients:
        ends = list(clients.map(lambda _: ask_packed(worker, bomb), range(20)))
    assert set(ends) == {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
    assert grown.most < 400 * MIB
    assert ask_packed(worker, small) == 0


def ask_packed(worker: Worker, message: bytes) -> int | None:
    return status_of_call(worker.address, PREDICT, message, {"grpc-encoding": "gzip"}, compressed=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "one",
    [frame(PING, 0, 0, b"flooding"), frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535))],
    ids=["ping", "settings"],
)
def test_pings_and_settings_without_end_take_no_memory_and_hold_up_nobody(
    worker: Worker, standing_worker: tuple[Worker, Golden], one: bytes
) -> None:
    """From clients that never read what answers them; they are read no more once that has nowhere to go."""
    with standing_worker[1].beside(worker), growth(worker.pid) as grown, ExitStack() as stack:
        for connection in [stack.enter_context(connect(worker.address, 0.5)) for _ in range(3)]:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
            flood(connection, one)
            assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
    assert grown.most < 64 * MIB


def flood(connection: socket.socket, one: bytes) -> None:
    """Two million of them, or until the server reads no more, or hangs up."""
    try:
        for _ in range(400):
            connection.sendall(one * 5000)
    except OSError:
        return


def test_hundreds_of_connections_that_say_nothing_hold_up_nobody(
    worker: Worker, standing_worker: tuple[Worker, Golden]
) -> None:
    """Nothing at all, the beginning of TLS, that of HTTP/2, a call without its end. The oracle sees them gone."""
    hello = b"\x16\x03\x01\x02\x00" + bytes(400)
    call = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, header_block(PREDICT))
    with standing_worker[1].beside(worker), ExitStack() as stack:
        for said in (b"", hello, PREFACE, call):
            for _ in range(100):
                connection = stack.enter_context(connect(worker.address))
                connection.sendall(said)
        started = time.monotonic()
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
        assert time.monotonic() - started < 20  # the machine may be busy
        assert stream(worker.stub, prompt(STORY, 3)).code is OK
