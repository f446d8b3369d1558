"""Bytes that are no request, and requests at the limits."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.rpc.methods import answer_to
from tests.e2e.http2 import END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, header_block
from tests.rpc.conftest import Worker, status_of

Run = Callable[..., None]
CODES = grpc.StatusCode
UNARY = ("Predict", "LoadModel", "TokenizeString", "Detokenize", "Score", "Rerank")


@pytest.mark.parametrize("data", [b"\xff" * 9, b"\x0a\x10short"])
def test_a_malformed_message_is_an_invalid_argument_that_names_its_type(scenario: Run, data: bytes) -> None:
    async def test(worker: Worker) -> None:
        for method in UNARY:
            code, details = await status_of(worker.raw(f"/backend.Backend/{method}", data))
            assert (code, "not a valid backend." in details) == (CODES.INVALID_ARGUMENT, True), method
        stream = worker.channel.unary_stream("/backend.Backend/PredictStream")(data)
        code, details = await status_of(stream.read())
        assert (code, "backend.PredictOptions" in details) == (CODES.INVALID_ARGUMENT, True)

    scenario(test)


def test_text_that_is_not_utf8_is_an_invalid_argument_that_says_so(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        code, details = await status_of(worker.raw("/backend.Backend/Predict", b"\x0a\x02\xff\xfe"))
        assert code == CODES.INVALID_ARGUMENT
        assert "backend.PredictOptions" in details
        assert "UTF-8" in details

    scenario(test)


def test_fields_from_a_newer_client_are_ignored_and_an_unknown_method_is_unimplemented(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        data = pb.PredictOptions(Prompt="hi").SerializeToString() + b"\xc8\x3e\x01"  # field 1001
        assert pb.Reply.FromString(await worker.raw("/backend.Backend/Predict", data)).message == b"Hello"
        assert (await status_of(worker.raw("/backend.Backend/Nonsense", b"")))[0] == CODES.UNIMPLEMENTED

    scenario(test)


async def answer_to_path(address: str, path: str, **headers: str) -> bytes:
    """What the server sends to a call of this path, up to its end, on a connection of its own."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, header_block(path, **headers)))
    told = b""
    while b"grpc-status" not in told:
        told += (await reader.read(1 << 16)) or b"grpc-status: none, the server has hung up"
    writer.close()
    return told


@pytest.mark.parametrize(
    "path", ["/b\udcf0(.Backend/Predict", "\udcff", "/backend.Backend/Health\udcc3", "/" + "\udc80" * 90]
)
def test_a_path_that_is_not_utf8_is_unimplemented_and_the_server_goes_on(scenario: Run, path: str) -> None:
    """gRPC's own loop that takes calls in ends with such a path, and its server with it."""

    async def test(worker: Worker) -> None:
        for _ in range(3):
            told = await answer_to_path(worker.address, path)
            assert b"grpc-status\x0212" in told and b"Method not found!" in told
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"

    scenario(test)


def test_without_a_token_nobody_learns_which_methods_there_are(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        for path in ("/backend.Backend/Health", "/backend.Backend/Nonsense", "/\udcff"):
            assert b"grpc-status\x0216" in await answer_to_path(worker.address, path)

    scenario(test, token="secret")


def test_a_header_that_is_not_utf8_is_not_in_the_log(scenario: Run, caplog: pytest.LogCaptureFixture) -> None:
    """gRPC logs it whole, whatever it says; it may well be a token."""

    async def test(worker: Worker) -> None:
        told = await answer_to_path(worker.address, "/backend.Backend/Health", authorization="Bearer hush\udcff")
        assert b"grpc-status\x0216" in told

    scenario(test, token="secret")
    assert not [record for record in caplog.records if record.levelname == "ERROR" or "hush" in record.getMessage()]


def test_a_write_that_fails_in_grpc_is_a_client_that_has_left_and_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection that breaks ends the write before the call is known to be cancelled."""

    class Context:
        def cancelled(self) -> bool:
            return False

    with pytest.raises(asyncio.CancelledError):
        answer_to(grpc.aio.InternalError("ExecuteBatch"), Context())  # type: ignore[arg-type]
    assert not caplog.records
    panic = type("PanicException", (BaseException,), {})
    for fault in (ValueError("x"), panic("what Rust's libraries raise, which is no Exception")):
        assert answer_to(fault, Context())[0] == CODES.INTERNAL  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        answer_to(KeyboardInterrupt(), Context())  # type: ignore[arg-type]


def test_a_message_over_the_limit_is_resource_exhausted_and_one_under_it_is_served(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        assert (await worker.backend.Predict(pb.PredictOptions(Prompt="a" * 900_000))).message == b"Hello"
        code, _ = await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="a" * 1_100_000)))
        assert code == CODES.RESOURCE_EXHAUSTED
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"

    scenario(test, max_message_bytes=1 << 20)


def test_metadata_over_grpcs_limit_is_resource_exhausted(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        call = worker.backend.Health(pb.HealthMessage(), metadata=(("x-large", "a" * 60_000),))
        assert (await status_of(call))[0] == CODES.RESOURCE_EXHAUSTED
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"

    scenario(test)


@pytest.mark.parametrize(
    "request_",
    [
        pb.PredictOptions(Prompt=""),
        pb.PredictOptions(Prompt="p", Temperature=float("nan")),
        pb.PredictOptions(Prompt="p", TopK=-2),
        pb.PredictOptions(Prompt="p", LogitBias="{not json"),
        pb.PredictOptions(Prompt="p", Tools="[" * 100_000),
        pb.PredictOptions(Prompt="p", Images=["AAAA"]),
    ],
)
def test_a_wrong_request_never_reaches_the_engine(scenario: Run, request_: pb.PredictOptions) -> None:
    async def test(worker: Worker) -> None:
        assert (await status_of(worker.backend.Predict(request_)))[0] == CODES.INVALID_ARGUMENT
        assert (await status_of(worker.backend.PredictStream(request_).read()))[0] == CODES.INVALID_ARGUMENT
        assert not worker.engine.requests
        assert (await worker.backend.Predict(pb.PredictOptions(Prompt="p"))).message == b"Hello"

    scenario(test)
