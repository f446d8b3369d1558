"""A connection whose calls keep back the last byte of their messages; it heeds flow control, as gRPC's clients do."""

import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from tests.e2e.http2 import END_HEADERS, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, header_block

DATA, PING, WINDOW_UPDATE = 0, 6, 8
ACK = 1
FRAME_BYTES = 16_384  # of the protocol, where nobody has said more
FIRST_WINDOW = 65_535
_INITIAL_WINDOW_SIZE = 4  # of the settings
_CONNECTION = 0


class HalfSent:
    """One connection. `sent` is bytes of each call; `ended` the calls that the server has ended."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._changed = threading.Condition()
        self._initial = FIRST_WINDOW
        self._windows = {_CONNECTION: FIRST_WINDOW}
        self.sent = Counter[int]()
        self.ended: set[int] = set()
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0))
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, path: str, calls: int, nbytes: int) -> None:
        """Open calls of messages of so many bytes, and send of each what the server takes, but for the last byte."""
        for call in range(1, 2 * calls, 2):
            with self._changed:
                self._windows[call] = self._initial
                self._socket.sendall(frame(HEADERS, END_HEADERS, call, header_block(path)))
        prefix = b"\0" + struct.pack(">I", nbytes)
        left = {call: len(prefix) + nbytes - 1 for call in range(1, 2 * calls, 2)}
        while left:
            with self._changed:
                ready = [call for call in left if self._may_send(call) > 0]
                if not ready and not self._changed.wait_for(lambda: any(self._may_send(c) > 0 for c in left), 1.0):
                    return  # the server takes no more
                for call in ready:
                    size = min(self._may_send(call), FRAME_BYTES, left[call])
                    if size <= 0:
                        continue
                    payload = (prefix if not self.sent[call] else b"").ljust(size, b"\0")[:size]
                    self._socket.sendall(frame(DATA, 0, call, payload))
                    for window in (_CONNECTION, call):
                        self._windows[window] -= size
                    self.sent[call] += size
                    left[call] -= size
                    if not left[call]:
                        del left[call]

    def wait_for_ends(self, count: int, seconds: float) -> bool:
        """Whether the server has ended so many calls in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.ended) >= count, seconds)

    def close(self) -> None:
        """Hang up."""
        # While a thread waits for what comes, closing alone leaves the connection open.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _may_send(self, call: int) -> int:
        return 0 if call in self.ended else min(self._windows[_CONNECTION], self._windows[call])

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # one of us has hung up
            self._read_frames()

    def _read_frames(self) -> None:
        for kind, flags, call, payload in self._frames():
            with self._changed:
                if kind == WINDOW_UPDATE:
                    self._windows[call] = self._windows.get(call, self._initial) + int.from_bytes(payload, "big")
                elif kind == SETTINGS and not flags & ACK:
                    self._set(payload)
                    self._socket.sendall(frame(SETTINGS, ACK, 0))
                elif kind == PING and not flags & ACK:
                    self._socket.sendall(frame(PING, ACK, 0, payload))
                elif kind in (RST_STREAM, HEADERS):
                    self.ended.add(call)
                self._changed.notify_all()

    def _set(self, settings: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", settings):
            if name == _INITIAL_WINDOW_SIZE:
                for call in self._windows.keys() - {_CONNECTION}:
                    self._windows[call] += value - self._initial
                self._initial = value

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        buffer = b""
        while data := self._socket.recv(1 << 16):
            buffer += data
            while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3], "big")):
                yield buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9 : 9 + size]
                buffer = buffer[9 + size :]


@contextmanager
def half_sent(address: str, path: str, calls: int, nbytes: int) -> Generator[HalfSent]:
    """Such a connection, as far as the server takes it."""
    connection = HalfSent(address)
    try:
        connection.begin(path, calls, nbytes)
        yield connection
    finally:
        connection.close()
