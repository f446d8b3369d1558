"""Embedding, Score and Rerank: from a wire request to its numbers."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from backend.core.errors import InternalFault, ModelNotLoaded, WorkerError
from backend.core.events import Finished
from backend.core.logline import logline
from backend.core.pooled import PooledRequest, Relevances, Scores, Vectors
from backend.pb import backend_pb2 as pb
from backend.rpc.answers import timings
from backend.rpc.engine_api import EngineApi
from backend.rpc.identity import check_identity, request_id_of
from backend.rpc.methods import Context, Received
from backend.rpc.off_loop import OffLoop
from backend.translate import pooled
from backend.translate.requests import deadline_of

Result = TypeVar("Result", Vectors, Scores, Relevances)
Translate = Callable[[str, float | None], PooledRequest]

# Of the call's metadata: Score and Rerank have no field for it.
_SALT = "cache_salt"

log = logging.getLogger(__name__)


class PooledMethods:
    """The methods of `backend.Backend` that answer with numbers. Event loop only."""

    def __init__(self, engine: EngineApi, off_loop: OffLoop) -> None:
        self._engine = engine
        self._off_loop = off_loop

    async def embedding(self, request: Received[pb.PredictOptions], context: Context) -> pb.EmbeddingResult:
        """The vector of a text, or those of its tokens."""
        wire = request.message

        def translate(request_id: str, deadline: float | None) -> PooledRequest:
            return pooled.embedding_request(wire, request_id=request_id, deadline=deadline)

        end = await self._compute(request.size, context, wire.ModelIdentity, translate, wire.CorrelationId)
        vectors = _result(end, Vectors)
        return await self._off_loop.run(len(vectors.data), pooled.embedding_result, vectors, end.usage)

    async def score(self, request: Received[pb.ScoreRequest], context: Context) -> pb.ScoreResponse:
        """How likely each candidate is."""
        wire, metadata = request.message, _metadata(context)

        def translate(request_id: str, deadline: float | None) -> PooledRequest:
            return pooled.score_request(wire, metadata, request_id=request_id, deadline=deadline)

        end = await self._compute(request.size, context, wire.ModelIdentity, translate)
        return await self._off_loop.run(request.size, pooled.score_response, wire, _result(end, Scores))

    async def rerank(self, request: Received[pb.RerankRequest], context: Context) -> pb.RerankResult:
        """How relevant each document is."""
        wire, metadata = request.message, _metadata(context)

        def translate(request_id: str, deadline: float | None) -> PooledRequest:
            return pooled.rerank_request(wire, metadata, request_id=request_id, deadline=deadline)

        end = await self._compute(request.size, context, wire.ModelIdentity, translate)
        relevances = _result(end, Relevances)
        return await self._off_loop.run(request.size, pooled.rerank_result, wire, relevances, end.usage)

    async def _compute(
        self, size: int, context: Context, identity: str, translate: Translate, name: str = ""
    ) -> Finished:
        if self._engine.model_config() is None:
            raise ModelNotLoaded
        check_identity(identity, self._engine.loaded_identity())
        request_id = request_id_of(name)
        context.set_trailing_metadata((("x-request-id", request_id),))
        deadline = deadline_of(context.time_remaining(), time.monotonic())
        asked = await self._off_loop.run(size, translate, request_id, deadline)
        try:
            end = await self._engine.compute(asked)
        except WorkerError as error:
            log.info(logline("failed", request_id=request_id, error=type(error).__name__))
            raise
        kind = type(end.result).__name__
        log.debug(logline("computed", request_id=request_id, kind=kind, prompt_tokens=end.usage.prompt_tokens))
        context.set_trailing_metadata((("x-request-id", request_id), *timings(end).items()))
        return end


def _metadata(context: Context) -> Mapping[str, str]:
    given = dict(context.invocation_metadata() or ()).get(_SALT.replace("_", "-"), "")
    return {_SALT: given if isinstance(given, str) else given.decode("utf-8", "replace")}


def _result(end: Finished, kind: type[Result]) -> Result:
    if not isinstance(end.result, kind):
        raise InternalFault("the engine has computed something else")
    return end.result
