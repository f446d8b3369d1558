"""What comes over the socket of a real worker: any bytes, HTTP/2's frames."""

import contextlib
import random
import socket
import struct

from google.protobuf.message import Message

from backend.pb import backend_pb2 as pb
from tests.e2e.http2 import END_HEADERS, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, header_block
from tests.fuzz.changing import Change, Words, change_bytes
from tests.fuzz.http2_changes import change_frames, read_frames
from tests.fuzz.target import Target
from tests.fuzz.targets.standing import Standing

DATA, PRIORITY, PING, GO_AWAY, WINDOW_UPDATE, CONTINUATION = 0, 2, 6, 7, 8, 9
END_STREAM, ACK = 1, 1
ANSWER_SECONDS, CONNECT_SECONDS = 0.15, 5.0
_LAST = frame(PING, 0, 0, b"the last")
_ANSWERED = frame(PING, ACK, 0, b"the last")
_CALLS: tuple[tuple[str, Message], ...] = (
    ("Health", pb.HealthMessage()),
    ("Status", pb.HealthMessage()),
    ("TokenizeString", pb.PredictOptions(Prompt="Once upon a time")),
    ("Predict", pb.PredictOptions(Prompt="Once", Tokens=2)),
    ("PredictStream", pb.PredictOptions(Prompt="Once", Tokens=3, Metadata={"regex": "[a-z ]+"})),
    ("Embedding", pb.PredictOptions(Embeddings="Once")),
    ("Detokenize", pb.DetokenizeRequest(tokens=[1, 2])),
)
_WORDS = [f"/backend.Backend/{name}".encode() for name, _ in _CALLS] + [
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"/grpc.health.v1.Health/Watch", b"grpc-encoding",
    b"gzip",
    b"grpc-timeout", b"1n", b"99999999H", b"te", b"authorization", b"user-agent", b"content-length", b":status",
    b"\x3f\xe1\x1f",
    b"\x20", b"\xbf", b"\xff\xff\xff\xff\x0f", PREFACE,
]  # fmt: skip


def wire_frames() -> Target:
    """A connection: its preface and frames."""
    seeds = [PREFACE + b"".join(frames) for frames in _connections()]
    return _target(seeds, lambda rng, data, words: change_frames(rng, data, [*words, *_WORDS]))


def wire_bytes() -> Target:
    """A connection's bytes."""
    seeds = [PREFACE + b"".join(frames) for frames in _connections()[:3]]
    seeds += [
        b"",
        b"\0" * 100,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"a" * 60,
    ]
    return _target(seeds, _change_any)


def _change_any(rng: random.Random, data: bytes, words: Words) -> bytes:
    return change_bytes(rng, data, [*words, *_WORDS])


def _target(seeds: list[bytes], change: Change) -> Target:
    standing = Standing()

    def run(data: bytes) -> None:
        send(standing.worker.address, data)
        standing.look()

    def close() -> None:
        standing.check()
        standing.close()

    return Target(run=run, seeds=seeds, change=change, seconds=120.0, repeatable=False, close=close)


def send(address: str, data: bytes) -> None:
    """Send, wait until each call in it has ended or the server has had time to end it, and hang up."""
    host, _, port = address.rpartition(":")
    frames = read_frames(data.removeprefix(PREFACE))
    calls = len({stream for kind, _, stream, _, _ in frames if kind == HEADERS})
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection,
    ):
        connection.sendall(data + _LAST)
        connection.settimeout(ANSWER_SECONDS)
        told = b""
        while (not calls or _ended(told) < calls) and (some := connection.recv(1 << 16)):
            told += some
            if not calls and _ANSWERED in told:
                break


def _ended(told: bytes) -> int:
    """Calls that are over, by the server's frames."""
    return sum(
        kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM) for kind, flags, *_ in read_frames(told)
    )


def _connections() -> list[list[bytes]]:
    begin = frame(SETTINGS, 0, 0)
    calls = [_call(name, message, 1) for name, message in _CALLS]
    return [
        *([begin, *call] for call in calls),
        [begin, *calls[0], *_call("Predict", _CALLS[3][1], 3), frame(RST_STREAM, 0, 3, struct.pack(">I", 8))],
        [begin, frame(SETTINGS, ACK, 0), frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)), *calls[4]],
        [begin, frame(HEADERS, 0, 1, header_block("/backend.Backend/")[:20]), frame(CONTINUATION, END_HEADERS, 1, b"")],
        [
            frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 5, 1 << 14)),
            *calls[4],
            frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
        ],
        [begin, frame(GO_AWAY, 0, 0, struct.pack(">II", 0, 0)), *calls[1], frame(PING, 0, 0, b"12345678")],
    ]


def _call(name: str, message: Message, stream: int) -> list[bytes]:
    body = message.SerializeToString()
    return [
        frame(HEADERS, END_HEADERS, stream, header_block(f"/backend.Backend/{name}")),
        frame(DATA, END_STREAM, stream, b"\0" + len(body).to_bytes(4, "big") + body),
    ]
