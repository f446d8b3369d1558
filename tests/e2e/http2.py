"""HTTP/2 frames by hand, for what no gRPC client would send."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM = 1
END_HEADERS = 4
CANCEL = struct.pack(">I", 8)
MAX_FRAME = 16_384
# A literal: name, then its value's length and digits.
STATUS = re.compile(rb"grpc-status[\x01\x02](\d{1,2})")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame: length in 24 bits, type, flags, stream, payload."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header_block(path: str, **others: str) -> bytes:
    """The headers of a gRPC call, each as a literal that enters no table; surrogates in them stand for bytes."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **others,
    }
    literal = (b"\x00" + _text(name) + _text(value) for name, value in headers.items())
    return b"".join(literal)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    assert len(data) < 127, "longer ones need a second byte for their length"
    return bytes((len(data),)) + data


def connect(address: str, seconds: float = 60.0) -> socket.socket:
    """A connection whose every read and write has so many seconds."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def whole_call(
    path: str, message: bytes, headers: Mapping[str, str] | None = None, *, compressed: bool = False
) -> bytes:
    """All that a client sends on a connection of its own for one call; the windows must have room for its message."""
    framed = struct.pack(">BI", compressed, len(message)) + message
    pieces = [framed[at : at + MAX_FRAME] for at in range(0, len(framed), MAX_FRAME)]
    data = [frame(DATA, END_STREAM * (piece is pieces[-1]), 1, piece) for piece in pieces]
    opening = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, header_block(path, **(headers or {})))
    return opening + b"".join(data)


def answer_to_call(
    address: str, path: str, message: bytes, headers: Mapping[str, str] | None = None, *, compressed: bool = False
) -> bytes:
    """What the server sends to a call on a connection of its own, up to its status, or until it hangs up."""
    told = b""
    with connect(address) as connection:
        connection.sendall(whole_call(path, message, headers, compressed=compressed))
        while not STATUS.search(told) and (more := connection.recv(1 << 16)):
            told += more
    return told


def status_of_call(
    address: str, path: str, message: bytes, headers: Mapping[str, str] | None = None, *, compressed: bool = False
) -> int | None:
    """The `grpc-status` of a call on a connection of its own; None where the server hangs up without one."""
    found = STATUS.search(answer_to_call(address, path, message, headers, compressed=compressed))
    return int(found[1]) if found else None


def open_and_reset(address: str, path: str, calls: int) -> None:
    """On one connection, open so many calls and cancel each at once, then close; a server that hangs up ends it."""
    with connect(address, 600) as connection, contextlib.suppress(OSError):
        threading.Thread(target=_discard, args=(connection,), daemon=True).start()
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        block = header_block(path)
        for stream in range(1, 2 * calls, 2):
            connection.sendall(frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, CANCEL))


def _discard(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass
