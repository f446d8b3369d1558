"""Messages between the worker and its confined processes: eight bytes of length, then JSON.

JSON and not pickle: what comes back from a process that did a stranger's work is only ever data.
"""

import json
import struct
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")


def framed(body: bytes) -> bytes:
    """A body with its length before it."""
    return LENGTH.pack(len(body)) + body


def pack(value: dict[str, Any]) -> bytes:
    """A frame. Lone surrogates, which JSON escapes can bring in, survive the way."""
    return framed(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def unpack(body: bytes) -> dict[str, Any]:
    """The value of a frame's body."""
    return json.loads(body.decode("utf-8", "surrogatepass"))


def read_body(stream: BinaryIO) -> bytes | None:
    """The next frame's body, or None at the end of the stream. Blocks."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """The next frame's value, or None at the end of the stream. Blocks."""
    body = read_body(stream)
    return None if body is None else unpack(body)


class Frames:
    """Frames out of bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, data: bytes) -> list[bytes]:
        """Bodies that these bytes complete."""
        self._bytes += data
        bodies: list[bytes] = []
        while len(self._bytes) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            bodies.append(bytes(self._bytes[LENGTH.size : end]))
            del self._bytes[:end]
        return bodies
