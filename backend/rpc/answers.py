"""Predict and PredictStream: from a wire request to its replies, whichever way it ends."""

import logging
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any

from backend.config import ModelConfig
from backend.core.errors import ModelNotLoaded, RequestCancelled, WorkerError
from backend.core.events import Delta, Failed, Finished, FinishReason, Piece
from backend.core.logline import logline
from backend.core.request import Conversation, GenerationRequest
from backend.pb import backend_pb2 as pb
from backend.rpc.engine_api import AnswerEvents, EngineApi
from backend.rpc.identity import check_identity, request_id_of
from backend.rpc.methods import Context, Received
from backend.rpc.off_loop import OffLoop
from backend.rpc.request_line import RequestLine
from backend.translate import without_effect
from backend.translate.logprobs import logprobs_json, written_size
from backend.translate.replies import ReplyStream, whole_reply
from backend.translate.reply_shape import ReplyShape
from backend.translate.requests import deadline_of, generation_request

log = logging.getLogger(__name__)

# Of short values in short lists; what is text in it grows threefold, as all text does.
_JSON_GROWTH = 20


class Answers:
    """Runs generation requests on the engine. Event loop only."""

    def __init__(self, engine: EngineApi, off_loop: OffLoop) -> None:
        self._engine = engine
        self._off_loop = off_loop
        self._seen_without_effect: set[str] = set()

    async def whole(self, received: Received[pb.PredictOptions], context: Context) -> pb.Reply:
        """The complete answer."""
        with RequestLine("Predict", context) as line:
            events, shape = await self._submit(received, context, line)
            del received  # a message of megabytes is not kept for as long as its answer takes
            pieces: list[Piece] = []
            try:
                async for event in events:
                    line.note(event)
                    if isinstance(event, Delta):
                        pieces.append(event.piece)
                    else:
                        end = _end(event, context)
                        return whole_reply(pieces, end, shape, await self._logprobs(end))
            finally:
                events.cancel()
            raise RequestCancelled

    async def pieces(self, received: Received[pb.PredictOptions], context: Context) -> AsyncGenerator[pb.Reply]:
        """The answer as it comes."""
        with RequestLine("PredictStream", context) as line:
            events, shape = await self._submit(received, context, line, streamed=True)
            del received
            replies = ReplyStream(shape)
            try:
                async for event in events:
                    line.note(event)
                    if isinstance(event, Delta):
                        new = replies.delta(event)
                    else:
                        end = _end(event, context)
                        new = replies.finished(end, await self._logprobs(end))
                    for reply in new:
                        yield reply
            finally:
                # A client that leaves closes this generator at its yield; the row must not take another step.
                events.cancel()

    async def _logprobs(self, end: Finished) -> bytes:
        if not end.logprobs:
            return b""
        return await self._off_loop.run(written_size(end.logprobs), logprobs_json, end.logprobs)

    async def _submit(
        self, received: Received[pb.PredictOptions], context: Context, line: RequestLine, *, streamed: bool = False
    ) -> tuple[AnswerEvents, ReplyShape]:
        wire = received.message
        line.request_id = request_id = request_id_of(wire.CorrelationId)
        model = self._engine.model_config()
        if model is None:
            raise ModelNotLoaded
        check_identity(wire.ModelIdentity, self._engine.loaded_identity())
        context.set_trailing_metadata((("x-request-id", request_id),))
        deadline = deadline_of(context.time_remaining(), time.monotonic())
        asked = await self._off_loop.run(received.size, _asked, wire, model, request_id, deadline, streamed)
        line.priority = asked.request.priority or None
        self._note_fields_without_effect(asked.without_effect)
        if isinstance(asked.request.prompt, Conversation):
            received.held.weigh(_JSON_GROWTH * asked.request.prompt.json_bytes)
        events = await self._engine.submit(asked.request)
        # Tokens are left. A stream that nobody reads is not to keep others out.
        received.held.let_go()
        return events, asked.shape

    def _note_fields_without_effect(self, names: Iterable[str]) -> None:
        new = set(names) - self._seen_without_effect
        if new:
            self._seen_without_effect |= new
            log.info(logline("fields_without_effect", message="PredictOptions", fields=",".join(sorted(new))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a wire request says."""

    request: GenerationRequest
    shape: ReplyShape
    without_effect: tuple[str, ...]


def _asked(
    wire: pb.PredictOptions, model: ModelConfig, request_id: str, deadline: float | None, streamed: bool
) -> _Asked:
    request = generation_request(wire, model, request_id=request_id, deadline=deadline, streamed=streamed)
    return _Asked(
        request=request,
        shape=ReplyShape.of(wire, request.prompt),
        without_effect=without_effect.fields_without_effect(wire, without_effect.PREDICT),
    )


def _end(event: Finished | Failed, context: Context) -> Finished:
    """The end of an answer, with its trailing metadata sent along.

    Raises:
        WorkerError: The answer failed.
    """
    request_id = dict(context.trailing_metadata() or ()).get("x-request-id", "")
    if isinstance(event, Failed):
        raise _failure(event.error, request_id, context)
    told = {"x-finish-reason": event.reason.value, **timings(event)}
    context.set_trailing_metadata((("x-request-id", str(request_id)), *told.items()))
    return event


def timings(event: Finished) -> dict[str, str]:
    """What trailing metadata says of where the time went, of the cache, and of guessed tokens."""
    usage = event.usage
    told = {"x-queue-ms": f"{usage.queue_ms:.3f}", "x-prefill-ms": f"{usage.prefill_ms:.3f}"}
    # Without a reason nobody is to know what the cache had.
    if event.cache_reason:
        told["x-prompt-cache-tokens"] = str(usage.cached_tokens)
        told["x-prompt-cache-reason"] = _ascii(event.cache_reason)
    if usage.drafted_tokens is not None:
        told["x-drafted-tokens"] = str(usage.drafted_tokens)
        told["x-accepted-tokens"] = str(usage.accepted_tokens)
    return told


def _failure(error: WorkerError, request_id: Any, context: Context) -> WorkerError:
    if isinstance(error, RequestCancelled):
        cancelled = ("x-finish-reason", FinishReason.CANCELLED.value)
        context.set_trailing_metadata((("x-request-id", request_id), cancelled))
    return error


def _ascii(text: str) -> str:
    """Text that a header takes."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:1024]
