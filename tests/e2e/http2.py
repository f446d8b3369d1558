"""HTTP/2 frames by hand, for what no gRPC client would send."""

import contextlib
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS = 1, 3, 4
END_HEADERS = 4
CANCEL = struct.pack(">I", 8)


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


def open_and_reset(address: str, path: str, calls: int) -> None:
    """On one connection, open so many calls and cancel each at once, then close; a server that hangs up ends it."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection, contextlib.suppress(OSError):
        threading.Thread(target=_discard, args=(connection,), daemon=True).start()
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        block = header_block(path)
        for stream in range(1, 2 * calls, 2):
            connection.sendall(frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, CANCEL))


def _discard(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass
