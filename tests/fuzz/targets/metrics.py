"""The operator's port: any bytes as HTTP."""

import contextlib
import socket
import threading
import time

from backend.metrics.endpoint import MetricsEndpoint
from tests.fuzz.changing import change_text
from tests.fuzz.target import Broken, Target

_SEEDS = (
    "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
    "GET /metrics HTTP/1.0\r\n\r\n",
    "GET /x HTTP/1.1\r\n\r\n", "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "GET /metrics\r\n",
    "HEAD /metrics?a=b HTTP/1.1\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n", "\x16\x03\x01",
    "PRI * HTTP/2.0\r\n\r\nSM",
)  # fmt: skip


def metrics_bytes() -> Target:
    """A connection's bytes."""
    endpoint = MetricsEndpoint("127.0.0.1", 0, lambda accept: ("text/plain", f"{accept!r:.100}".encode()))
    port = int(endpoint.start().rsplit(":", 1)[1].split("/")[0])
    threads = threading.active_count()
    raised: list[str] = []
    threading.excepthook = lambda said: raised.append(f"{said.exc_type.__name__}: {said.exc_value}")

    def run(data: bytes) -> None:
        _exchange(port, data)
        if raised:
            raise Broken("a thread raises", raised.pop())
        if "200 OK" not in _exchange(port, _SEEDS[1].encode()).decode("latin-1"):
            raise Broken("it does not answer any more")
        deadline = time.monotonic() + 5
        while threading.active_count() > threads:
            if time.monotonic() > deadline:
                raise Broken("a thread stays")
            time.sleep(0.001)

    return Target(
        run=run,
        seeds=[seed.encode("latin-1") for seed in _SEEDS],
        change=change_text,
        seconds=20.0,
        close=endpoint.close,
    )


def _exchange(port: int, data: bytes) -> bytes:
    told = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while some := connection.recv(1 << 16):
            told += some
    return told
