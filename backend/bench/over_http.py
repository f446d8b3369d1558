"""A server that speaks OpenAI's HTTP as a target: streamed completions, or chat completions."""

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from backend.bench.measured import Measured
from backend.bench.plan import Planned

_SECONDS: Final = 600.0
_MOST_BODY: Final = 1 << 16


class HttpTarget:
    """Asks over HTTP, each request on a connection and in a thread of its own. Event loop, but for the threads.

    Args:
        url: Of the server, with or without `/v1`.
        model: What requests name; empty takes the first that the server lists.
        streams: Requests at a time, at most.
    """

    def __init__(self, name: str, url: str, *, model: str, token: str, as_chat: bool, streams: int) -> None:
        self.name = name
        self._url, self._model, self._as_chat = _parsed(url), model, as_chat
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="http")

    async def open(self) -> None:
        """Ready to be asked.

        Raises:
            ValueError: The server lists no model; one sentence.
        """
        if not self._model:
            self._model = await asyncio.get_running_loop().run_in_executor(self._threads, self._first_model)

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, planned: Planned, measured: Measured) -> None:
        """Run one request to its end; what it took, and what went wrong, is in `measured`."""
        exchange = _Exchange(self._url)
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._run, exchange, planned, measured)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            exchange.cut()
            await asyncio.wait([work])
            raise

    def _run(self, exchange: "_Exchange", planned: Planned, measured: Measured) -> None:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": planned.answer_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            # Of those servers that can be made to: answers of a length that was asked for.
            "ignore_eos": True,
        }
        if self._as_chat:
            body["messages"] = [{"role": "user", "content": planned.prompt}]
        else:
            body["prompt"] = planned.prompt
        try:
            path = "/chat/completions" if self._as_chat else "/completions"
            is_over = False
            for event in exchange.events(path, json.dumps(body).encode(), self._headers):
                is_over = event is None or _take(event, measured) or is_over
            # A connection that ends is not yet an answer that does.
            if not is_over:
                raise ValueError("The answer stops before its end.")
            if not measured.tokens:
                raise ValueError("The answer has no tokens.")
            measured.ended = time.perf_counter()
        # A stranger's JSON may have any shape.
        except (OSError, http.client.HTTPException, ValueError, AttributeError, TypeError, LookupError) as error:
            measured.error = f"{' '.join(str(error).split()) or type(error).__name__}"

    def _first_model(self) -> str:
        place = self._url.geturl()
        try:
            found = json.loads(_Exchange(self._url).get("/models", self._headers))
            return str(found["data"][0]["id"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            raise ValueError(f"{place} lists no model at /models: --http-model names one.") from None


class _Exchange:
    """One request on a connection of its own. The thread that runs it, but for `cut`."""

    def __init__(self, url: SplitResult) -> None:
        host, port = url.hostname or "", url.port
        if url.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=_SECONDS, context=ssl.create_default_context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        self._path = url.path
        self._lock = threading.Lock()
        self._cut = False

    def cut(self) -> None:
        """End it, whatever its thread waits for."""
        with self._lock:
            self._cut = True
            if self._connection.sock is not None:
                with contextlib.suppress(OSError):  # the server was sooner
                    self._connection.sock.shutdown(socket.SHUT_RDWR)

    def get(self, path: str, headers: dict[str, str]) -> bytes:
        """What a GET gives."""
        try:
            self._connection.request("GET", self._path + path, headers=headers)
            return self._checked().read(_MOST_BODY)
        finally:
            self._connection.close()

    def events(self, path: str, body: bytes, headers: dict[str, str]) -> Iterator[dict[str, Any] | None]:
        """The events that a POST is answered with; None is the one that says that there are no more.

        Raises:
            ValueError: It is refused, or answered with something else.
        """
        try:
            with self._lock:
                if self._cut:
                    return
                self._connection.connect()
            self._connection.request("POST", self._path + path, body, headers)
            for line in self._checked():
                if line.startswith(b"data:"):
                    text = line[5:].strip()
                    yield None if text == b"[DONE]" else json.loads(text)
        finally:
            self._connection.close()

    def _checked(self) -> http.client.HTTPResponse:
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            said = response.read(_MOST_BODY).decode(errors="replace")
            raise ValueError(f"The server answers {response.status}: {said[:200] or response.reason}")
        return response


def _parsed(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http or https URL")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/v1") else f"{path}/v1", query="", fragment="")


def _take(event: dict[str, Any], measured: Measured) -> bool:
    """What one event brings; whether it ends the answer.

    A piece of text counts as a token, until the server says how many there were.
    """
    if "error" in event:
        raise ValueError(f"The server says: {event['error']}")
    is_end = False
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content"):
            measured.saw(measured.watch.tokens + 1)
        is_end = is_end or bool(choice.get("finish_reason"))
    usage = event.get("usage")
    if usage:
        measured.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        measured.counted = int(usage.get("completion_tokens") or 0)
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            measured.cached_tokens = int(details["cached_tokens"])
    return is_end
