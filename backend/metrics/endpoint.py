"""The HTTP server of the operator's port: threads of its own, so many at most, each of which answers one scrape."""

import errno
import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, Final, cast

from backend.core.logline import logline

PATH: Final = "/metrics"
# Of scrapes at a time; one more is closed at once.
MOST_SCRAPES: Final = 8
# Of a client: until it has said what it wants, and again until it has read the answer.
CLIENT_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 0.05

Scrape = Callable[[str], tuple[str, bytes]]

log = logging.getLogger(__name__)


class EndpointError(Exception):
    """The port cannot be had; the message is one line for whoever started the worker.

    Attributes:
        in_use: By another process, and else it could be had.
    """

    def __init__(self, message: str, *, in_use: bool) -> None:
        super().__init__(message)
        self.in_use = in_use


class MetricsEndpoint:
    """Serves `GET /metrics`. It never waits for the event loop or the engine, and neither waits for it."""

    def __init__(self, host: str, port: int, scrape: Scrape) -> None:
        """`scrape` makes content type and body of an `Accept` header, on any thread; port 0 is any free one."""
        self._host = host
        self._port = port
        self._scrape = scrape
        self._server: _Server | None = None

    def start(self) -> str:
        """Listen and serve; the URL.

        Raises:
            EndpointError: The address is none of this machine's, or is in use.
        """
        try:
            server = _Server(self._host, self._port, self._scrape)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            told = f"cannot serve metrics on {self._host} port {self._port}: {reason}"
            raise EndpointError(told, in_use=in_use) from error
        self._server = server
        threading.Thread(target=server.serve_forever, args=(_CLOSE_SECONDS,), name="metrics", daemon=True).start()
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{server.server_port}{PATH}"

    def close(self) -> None:
        """Listen no more; scrapes that are being answered end with the process at the latest."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Those that are still open at the end are nobody's to wait for.
    block_on_close = False

    def __init__(self, host: str, port: int, scrape: Scrape) -> None:
        self.address_family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        self.scrape = scrape
        self._free = threading.BoundedSemaphore(MOST_SCRAPES)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks its own name up, for as long as a name server takes.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system starts no more threads
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug(logline("scrape_failed"), exc_info=True)


class _UntilDeadline(io.RawIOBase):
    """What a client sends, all of it within `CLIENT_SECONDS`: a socket's own limit begins anew with every byte."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = time.monotonic() + CLIENT_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_UntilDeadline(self.connection))

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content_type, body = cast(_Server, self.server).scrape(self.headers.get("Accept", ""))
        # Of a call that sends, it is the limit of all that is sent.
        self.connection.settimeout(CLIENT_SECONDS)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "mlx-worker"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        """Scrapes come every few seconds; the log is for events."""
