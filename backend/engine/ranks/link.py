"""Messages between two ranks: JSON objects over one TCP connection, each behind its length."""

import contextlib
import json
import select
import socket
import struct
import threading
from typing import Any

Message = dict[str, Any]
_LENGTH = struct.Struct("!I")
MOST_BYTES = 64 << 20
"""Of one message; the largest is a prompt's chunk."""


class LinkLost(Exception):
    """The other end is gone, or what it sends is no message."""


class Link:
    """One connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(True)
        self._socket = connection
        self._lock = threading.Lock()
        self._held = bytearray()

    def send(self, *messages: Message) -> None:
        """Send messages in this order.

        Raises:
            LinkLost: The other end is gone.
        """
        frames = bytearray()
        for message in messages:
            body = json.dumps(message, separators=(",", ":")).encode()
            frames += _LENGTH.pack(len(body)) + body
        try:
            with self._lock:
                self._socket.sendall(frames)
        except OSError as error:
            raise LinkLost(str(error)) from error

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None where none has come within `timeout` seconds, and None of these is for ever.

        Raises:
            LinkLost: The other end is gone.
        """
        while (message := self._whole()) is None:
            if timeout is not None and not self._readable(timeout):
                return None
            try:
                read = self._socket.recv(1 << 16)
            except OSError as error:
                raise LinkLost(str(error)) from error
            if not read:
                raise LinkLost("closed by the other end")
            self._held += read
        return message

    def _readable(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout * 1e3))

    def _whole(self) -> Message | None:
        if len(self._held) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._held)
        if length > MOST_BYTES:
            raise LinkLost(f"a message of {length} bytes")
        end = _LENGTH.size + length
        if len(self._held) < end:
            return None
        body = bytes(self._held[_LENGTH.size : end])
        del self._held[:end]
        try:
            message = json.loads(body)
        except ValueError:
            raise LinkLost("what came is no message") from None
        if not isinstance(message, dict):
            raise LinkLost("what came is no message")
        return message

    def close(self) -> None:
        """End the connection; whoever receives at either end is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
