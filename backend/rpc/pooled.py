"""Embedding, Score and Rerank: from a wire request to its numbers."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from backend.core.errors import InternalFault, ModelNotLoaded
from backend.core.events import Finished
from backend.core.pooled import PooledRequest, Relevances, Scores, Vectors
from backend.pb import backend_pb2 as pb
from backend.rpc.answers import timings
from backend.rpc.engine_api import EngineApi
from backend.rpc.identity import check_identity, request_id_of
from backend.rpc.methods import Context, Received
from backend.rpc.off_loop import OffLoop
from backend.rpc.request_line import RequestLine
from backend.translate import pooled
from backend.translate.requests import deadline_of

Result = TypeVar("Result", Vectors, Scores, Relevances)
Translate = Callable[[str, float | None], PooledRequest]

_KEYS = ("cache_salt", "priority")


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

        end = await self._compute("Embedding", request.size, context, wire.ModelIdentity, translate, wire.CorrelationId)
        vectors = _result(end, Vectors)
        return await self._off_loop.run(len(vectors.data), pooled.embedding_result, vectors, end.usage)

    async def score(self, request: Received[pb.ScoreRequest], context: Context) -> pb.ScoreResponse:
        """How likely each candidate is."""
        wire, metadata = request.message, _metadata(context)

        def translate(request_id: str, deadline: float | None) -> PooledRequest:
            return pooled.score_request(wire, metadata, request_id=request_id, deadline=deadline)

        end = await self._compute("Score", request.size, context, wire.ModelIdentity, translate)
        return await self._off_loop.run(request.size, pooled.score_response, wire, _result(end, Scores))

    async def rerank(self, request: Received[pb.RerankRequest], context: Context) -> pb.RerankResult:
        """How relevant each document is."""
        wire, metadata = request.message, _metadata(context)

        def translate(request_id: str, deadline: float | None) -> PooledRequest:
            return pooled.rerank_request(wire, metadata, request_id=request_id, deadline=deadline)

        end = await self._compute("Rerank", request.size, context, wire.ModelIdentity, translate)
        relevances = _result(end, Relevances)
        return await self._off_loop.run(request.size, pooled.rerank_result, wire, relevances, end.usage)

    async def _compute(
        self, method: str, size: int, context: Context, identity: str, translate: Translate, name: str = ""
    ) -> Finished:
        with RequestLine(method, context) as line:
            line.request_id = request_id = request_id_of(name)
            if self._engine.model_config() is None:
                raise ModelNotLoaded
            check_identity(identity, self._engine.loaded_identity())
            context.set_trailing_metadata((("x-request-id", request_id),))
            deadline = deadline_of(context.time_remaining(), time.monotonic())
            asked = await self._off_loop.run(size, translate, request_id, deadline)
            line.priority = asked.priority or None
            end = await self._engine.compute(asked)
            line.note(end)
            context.set_trailing_metadata((("x-request-id", request_id), *timings(end).items()))
            return end


def _metadata(context: Context) -> Mapping[str, str]:
    """What `Metadata` has in other requests; these have no field for it. A header has no underscores."""
    given = dict(context.invocation_metadata() or ())
    texts = {key: given.get(key.replace("_", "-"), "") for key in _KEYS}
    return {key: text if isinstance(text, str) else text.decode("utf-8", "replace") for key, text in texts.items()}


def _result(end: Finished, kind: type[Result]) -> Result:
    if not isinstance(end.result, kind):
        raise InternalFault("the engine has computed something else")
    return end.result
