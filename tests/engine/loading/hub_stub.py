"""A model hub on a loopback socket: one repository, and switches for what may go wrong."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "someone/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubStub:
    """Serves `files` as `REPOSITORY`.

    Attributes:
        status: Answer every request with this status, if not 200.
        error_code: The hub's `X-Error-Code` beside such a status.
        stall_after: Bytes of a large file after which its body waits for `go_on`; None never waits.
        drop_after: Bytes of a large file after which its first body breaks off.
        claimed_bytes: A length to claim for large files instead of theirs.
        ranges: The Range headers that were asked for.
    """

    files: dict[str, bytes]
    status: int = 200
    error_code: str = ""
    stall_after: int | None = None
    drop_after: int | None = None
    claimed_bytes: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def __enter__(self) -> "HubStub":
        stub = self

        class Handler(_Handler):
            hub = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    @property
    def endpoint(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status != 200:
            self._send(self.hub.status, b"", {"X-Error-Code": self.hub.error_code, "X-Error-Message": "no"})
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._send_json([self._entry(name, data) for name, data in self.hub.files.items()])
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._send_json({"id": REPOSITORY, "sha": COMMIT, "private": False, "siblings": siblings})
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self._send_file(path.rsplit("/", 1)[1], body=body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str, *, body: bool) -> None:
        data = self.hub.files[name]
        start = 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        claimed = self.hub.claimed_bytes if len(data) > 1000 else None
        self.send_header("Content-Length", str(claimed or len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            self._send_body(data, start)

    def _send_body(self, data: bytes, start: int) -> None:
        stall, drop = self.hub.stall_after, self.hub.drop_after
        if drop is not None and drop < len(data):
            self.hub.drop_after = None
            self.wfile.write(data[start:drop])
            self.close_connection = True
            return
        try:
            if stall is not None and stall < len(data):
                self.wfile.write(data[start:stall])
                self.wfile.flush()
                self.hub.go_on.wait(60)
                start = stall
            self.wfile.write(data[start:])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
