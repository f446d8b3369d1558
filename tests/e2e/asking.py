"""Requests, and what a client has when they are over."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc

SECONDS = 120.0


@dataclass(slots=True)
class Answer:
    """One request's replies and its status."""

    replies: list[pb.Reply] = field(default_factory=list[pb.Reply])
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    trailing: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        """All `message` bytes; each reply's must be UTF-8 by itself."""
        return "".join(reply.message.decode() for reply in self.replies)

    @property
    def last(self) -> pb.Reply:
        """The reply that a host takes its counts from."""
        assert self.replies, (self.code, self.details)
        return self.replies[-1]

    @property
    def reason(self) -> str:
        """`x-finish-reason`."""
        return self.trailing.get("x-finish-reason", "")

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """The entries of the logprobs JSON on the last reply."""
        return json.loads(self.last.logprobs)["content"]

    @property
    def tokens(self) -> list[int]:
        """Token ids; the request must have asked for logprobs."""
        return [entry["id"] for entry in self.logprobs]

    def refused(self, code: grpc.StatusCode, words: str = "") -> None:
        """Assert that it failed with this status, in one short line, before any reply."""
        assert (self.code, bool(self.replies)) == (code, False), (self.code, self.details, self.text[:80])
        assert words.lower() in self.details.lower(), self.details
        assert "\n" not in self.details
        assert len(self.details.encode()) <= 1024
        assert "Traceback" not in self.details


def prompt(text: str, tokens: int = 16, **fields: Any) -> pb.PredictOptions:
    """A raw prompt; greedy unless the fields say otherwise."""
    return pb.PredictOptions(Prompt=text, Tokens=tokens, **fields)


def chat(text: str, tokens: int = 64, **fields: Any) -> pb.PredictOptions:
    """One user message through the chat template."""
    messages = [pb.Message(role="user", content=text)]
    return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, Tokens=tokens, **fields)


def predict(stub: rpc.BackendStub, request: pb.PredictOptions, seconds: float = SECONDS) -> Answer:
    """Ask for a whole answer."""
    answer = Answer()
    try:
        reply, call = stub.Predict.with_call(request, timeout=seconds)
        answer.replies.append(reply)
        answer.trailing = trailing_of(call.trailing_metadata())
    except grpc.RpcError as error:
        _take_error(answer, error)
    return answer


def stream(stub: rpc.BackendStub, request: pb.PredictOptions, seconds: float = SECONDS) -> Answer:
    """Ask for an answer in pieces, and read all of it."""
    return finish(stub.PredictStream(request, timeout=seconds))


@contextmanager
def running(
    stub: rpc.BackendStub, *requests: pb.PredictOptions, begun: bool = True, seconds: float = SECONDS
) -> Iterator[list[Any]]:
    """Streams that go on meanwhile, by default each past its first reply; what is left of them is cancelled."""
    calls = [stub.PredictStream(request, timeout=seconds) for request in requests]
    try:
        for call in calls if begun else ():
            next(call)
        yield calls
    finally:
        for call in calls:
            call.cancel()


def finish(call: Any) -> Answer:
    """Read a stream to its end."""
    answer = Answer()
    try:
        for reply in call:
            answer.replies.append(reply)
        answer.trailing = trailing_of(call.trailing_metadata())
    except grpc.RpcError as error:
        _take_error(answer, error)
    return answer


def trailing_of(metadata: Any) -> dict[str, str]:
    """Trailing metadata by name."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _take_error(answer: Answer, error: Any) -> None:
    answer.code, answer.details = error.code(), error.details()
    answer.trailing = trailing_of(error.trailing_metadata())


async def read(
    stub: Any,
    request: pb.PredictOptions,
    *,
    leave_after: int | None = None,
    pause: float = 0.0,
    seconds: float = SECONDS,
) -> Answer:
    """Read a stream of an asynchronous stub.

    Args:
        leave_after: It is cancelled after so many replies.
        pause: Seconds between two replies.
    """
    answer = Answer()
    call = stub.PredictStream(request, timeout=seconds)
    try:
        async for reply in call:
            answer.replies.append(reply)
            if leave_after is not None and len(answer.replies) >= leave_after:
                call.cancel()
                break
            if pause:
                await asyncio.sleep(pause)
        answer.code = await call.code()
        answer.trailing = trailing_of(await call.trailing_metadata())
    except grpc.aio.AioRpcError as error:
        _take_error(answer, error)
    return answer


async def read_whole(stub: Any, request: pb.PredictOptions, *, seconds: float = SECONDS) -> Answer:
    """Ask an asynchronous stub for a whole answer."""
    answer = Answer()
    call = stub.Predict(request, timeout=seconds)
    try:
        answer.replies.append(await call)
        answer.trailing = trailing_of(await call.trailing_metadata())
    except grpc.aio.AioRpcError as error:
        _take_error(answer, error)
    return answer
