"""The services `backend.Backend` and `backend.Info`: each method is one call of the engine, in other words."""

import logging
from collections.abc import Mapping
from typing import Final

from backend.config import ModelConfig
from backend.core.errors import InvalidRequest, ModelLoadFailed, ModelNotLoaded, WorkerUnavailable
from backend.core.logline import logline
from backend.core.reports import EngineState, ToolMarkers
from backend.core.request import Conversation
from backend.pb import backend_pb2 as pb
from backend.rpc.answers import Answers
from backend.rpc.engine_api import EngineApi
from backend.rpc.identity import check_identity
from backend.rpc.methods import Context, Handler, Handlers, Received
from backend.rpc.off_loop import OffLoop
from backend.rpc.pooled import PooledMethods
from backend.rpc.status import one_line
from backend.translate import without_effect
from backend.translate.options import LoadDefaults, load_request
from backend.translate.requests import prompt_of

BACKEND_SERVICE: Final = "backend.Backend"
INFO_SERVICE: Final = "backend.Info"

_STATES: Final[Mapping[EngineState, pb.StatusResponse.State.ValueType]] = {
    "uninitialized": pb.StatusResponse.UNINITIALIZED,
    "busy": pb.StatusResponse.BUSY,
    "ready": pb.StatusResponse.READY,
    "error": pb.StatusResponse.ERROR,
}

_ID_BYTES = 4

log = logging.getLogger(__name__)


class BackendService:
    """`backend.Backend`. Event loop only."""

    def __init__(self, engine: EngineApi, load_defaults: LoadDefaults, off_loop: OffLoop) -> None:
        self._engine = engine
        self._load_defaults = load_defaults
        self._off_loop = off_loop
        self._answers = Answers(engine, off_loop)
        self._pooled = PooledMethods(engine, off_loop)

    def handlers(self, make: Handlers) -> Mapping[str, Handler]:
        """All methods by name, ready to be registered."""
        predict = pb.PredictOptions
        return {
            "Health": make.unary("Backend.Health", pb.HealthMessage, self.health),
            "Free": make.unary("Backend.Free", pb.HealthMessage, self.free),
            "Predict": make.unary("Backend.Predict", predict, self._answers.whole),
            "LoadModel": make.unary("Backend.LoadModel", pb.ModelOptions, self.load_model),
            "PredictStream": make.stream("Backend.PredictStream", predict, self._answers.pieces),
            "Embedding": make.unary("Backend.Embedding", predict, self._pooled.embedding),
            "TokenizeString": make.unary("Backend.TokenizeString", predict, self.tokenize_string),
            "Detokenize": make.unary("Backend.Detokenize", pb.DetokenizeRequest, self.detokenize),
            "Status": make.unary("Backend.Status", pb.HealthMessage, self.status),
            "Rerank": make.unary("Backend.Rerank", pb.RerankRequest, self._pooled.rerank),
            "Score": make.unary("Backend.Score", pb.ScoreRequest, self._pooled.score),
            "GetMetrics": make.unary("Backend.GetMetrics", pb.MetricsRequest, self.get_metrics),
            "ModelMetadata": make.unary("Backend.ModelMetadata", pb.ModelOptions, self.model_metadata),
        }

    async def health(self, request: Received[pb.HealthMessage], context: Context) -> pb.Reply:
        """`OK` and nothing else, or UNAVAILABLE: hosts compare the text."""
        if not self._engine.alive:
            raise WorkerUnavailable(self._engine.ending or "the engine is dead")
        return pb.Reply(message=b"OK")

    async def load_model(self, request: Received[pb.ModelOptions], context: Context) -> pb.Result:
        """Load; what is wrong with the model or its options is a Result, as hosts expect."""
        wire = request.message
        ignored = without_effect.fields_without_effect(wire, without_effect.MODEL)
        if ignored:
            log.info(logline("fields_without_effect", message="ModelOptions", fields=",".join(ignored)))
        try:
            load = await self._off_loop.run(request.size, load_request, wire, self._load_defaults)
            for warning in load.warnings:
                log.warning(logline("load_option", text=warning))
            await self._engine.load(load.config)
        except (ModelLoadFailed, InvalidRequest) as error:
            log.warning(logline("load_failed", model=wire.Model, error=one_line(error.message)))
            return pb.Result(success=False, message=one_line(error.message))
        return pb.Result(success=True, message="model loaded")

    async def free(self, request: Received[pb.HealthMessage], context: Context) -> pb.Result:
        """Drop the model; twice is as good as once."""
        await self._engine.free()
        return pb.Result(success=True, message="model freed")

    async def tokenize_string(self, request: Received[pb.PredictOptions], context: Context) -> pb.TokenizationResponse:
        """Token ids of the prompt, or of Messages where it is empty."""
        model = self._engine.model_config()
        if model is None:
            raise ModelNotLoaded
        check_identity(request.message.ModelIdentity, self._engine.loaded_identity())
        prompt = await self._off_loop.run(request.size, _text_to_tokenize, request.message, model)
        tokens = await self._engine.tokenize(prompt)
        size = len(tokens) * _ID_BYTES
        return await self._off_loop.run(size, pb.TokenizationResponse, length=len(tokens), tokens=tokens)

    async def detokenize(self, request: Received[pb.DetokenizeRequest], context: Context) -> pb.DetokenizeResponse:
        """The text of token ids."""
        if self._engine.model_config() is None:
            raise ModelNotLoaded
        text = await self._engine.detokenize(request.message.tokens)
        return await self._off_loop.run(len(text), pb.DetokenizeResponse, content=text)

    async def status(self, request: Received[pb.HealthMessage], context: Context) -> pb.StatusResponse:
        """State and memory."""
        status = self._engine.status()
        memory = pb.MemoryUsageData(total=status.total_bytes, breakdown=status.breakdown)
        return pb.StatusResponse(state=_STATES[status.state], memory=memory)

    async def get_metrics(self, request: Received[pb.MetricsRequest], context: Context) -> pb.MetricsResponse:
        """Speed and totals; the batch is one slot to a host."""
        metrics = self._engine.metrics()
        return pb.MetricsResponse(
            tokens_per_second=metrics.tokens_per_second,
            # The wire's totals are 32 bits wide.
            tokens_generated=min(metrics.tokens_generated, 2**31 - 1),
            prompt_tokens_processed=min(metrics.prompt_tokens_processed, 2**31 - 1),
        )

    async def model_metadata(self, request: Received[pb.ModelOptions], context: Context) -> pb.ModelMetadataResponse:
        """Facts of the loaded model; the request's own options change nothing."""
        facts = await self._engine.model_facts()
        return pb.ModelMetadataResponse(
            supports_thinking=facts.supports_thinking,
            rendered_template=facts.rendered_template,
            tool_format=_markers(facts.tool_markers) if facts.tool_markers else None,
        )


def _text_to_tokenize(wire: pb.PredictOptions, model: ModelConfig) -> str | Conversation:
    if wire.Messages and not wire.Prompt:
        wire.UseTokenizerTemplate = True
    return prompt_of(wire, model)


def _markers(markers: ToolMarkers) -> pb.ToolFormatMarkers:
    """Those that hosts know; they take absent ones as empty."""
    return pb.ToolFormatMarkers(
        format_type=markers.format_type,
        per_call_start=markers.call_start,
        per_call_end=markers.call_end,
        reasoning_start=markers.reasoning_start,
        reasoning_end=markers.reasoning_end,
    )


class InfoService:
    """`backend.Info`. Event loop only."""

    def __init__(self, engine: EngineApi) -> None:
        self._engine = engine

    def handlers(self, make: Handlers) -> Mapping[str, Handler]:
        """All methods by name, ready to be registered."""
        return {"Get": make.unary("Info.Get", pb.InfoRequest, self.get)}

    async def get(self, request: Received[pb.InfoRequest], context: Context) -> pb.InfoResponse:
        """Everything there is to know."""
        info = self._engine.info()
        return pb.InfoResponse(
            version=info.version,
            model=info.model,
            context=info.context,
            device=info.device,
            blas=info.blas,
            mode=info.mode,
            uptime_seconds=info.uptime_s,
            cache=info.cache,
            queue=info.queue,
            details=info.details,
        )
