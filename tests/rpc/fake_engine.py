"""An engine without a model, whose answers a test scripts; it keeps the contract of `EngineApi`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from backend.config import ModelConfig
from backend.core.errors import InvalidRequest, ModelNotLoaded, WorkerError, WorkerUnavailable
from backend.core.events import Delta, Event, Failed, Finished, FinishReason, Piece, Usage
from backend.core.pooled import PooledRequest, PooledResult
from backend.core.reports import (
    CacheReport,
    EngineFigures,
    EngineMetrics,
    EngineState,
    EngineStatus,
    ModelFacts,
    PrefixFacts,
    ToolMarkers,
    WorkerInfo,
)
from backend.core.request import Conversation, GenerationRequest


class FakeAnswer:
    """A scripted answer. `None` in the script waits until `release` is set."""

    def __init__(self, script: Sequence[Event | None]) -> None:
        self._script = list(script)
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._failure: WorkerError | None = None

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._script:
            if event is None:
                await self.release.wait()
                if self._failure is not None:
                    yield Failed(error=self._failure)
                    return
            else:
                yield event

    def cancel(self) -> None:
        self.cancelled.set()

    def fail(self, error: WorkerError) -> None:
        self._failure = error
        self.release.set()


def answer(*texts: str, reason: FinishReason = FinishReason.STOP) -> list[Event | None]:
    """A script of one delta a text."""
    script: list[Event | None] = [
        Delta(piece=Piece(content=text), usage=Usage(prompt_tokens=3, completion_tokens=index + 1))
        for index, text in enumerate(texts)
    ]
    usage = Usage(prompt_tokens=3, completion_tokens=len(texts), queue_ms=1.5, prefill_ms=2.5, decode_ms=4.0)
    return [*script, Finished(reason=reason, piece=Piece(), usage=usage, cache_reason="off")]


@dataclass
class FakeEngine:
    """Records what it is asked; `script` or `refusal` is what the next request gets."""

    script: list[Event | None] = field(default_factory=lambda: answer("Hel", "lo"))
    refusal: Exception | None = None
    load_failure: Exception | None = None
    requests: list[GenerationRequest] = field(default_factory=list)
    computed: list[PooledRequest] = field(default_factory=list)
    result: PooledResult | None = None
    answers: list[FakeAnswer] = field(default_factory=list)
    prefixes: dict[tuple[str, str], PrefixFacts] = field(default_factory=dict)
    loads: list[ModelConfig] = field(default_factory=list)
    alive: bool = True
    ending: str = ""
    closed: bool = False
    death: "asyncio.Future[str] | None" = None
    submitted: asyncio.Event = field(default_factory=asyncio.Event)
    _config: ModelConfig | None = None

    def start(self) -> None:
        pass

    async def died(self) -> str:
        self.death = asyncio.get_running_loop().create_future()
        return await self.death

    async def close(self) -> None:
        self.alive = False
        self.closed = True
        for stream in self.answers:
            stream.fail(WorkerUnavailable("the worker is shutting down"))

    async def load(self, config: ModelConfig) -> None:
        if self.load_failure is not None:
            raise self.load_failure
        self.loads.append(config)
        self._config = config

    async def free(self) -> None:
        self._config = None

    def loaded_identity(self) -> str | None:
        return self._config.identity if self._config else None

    def model_config(self) -> ModelConfig | None:
        return self._config

    async def submit(self, request: GenerationRequest) -> FakeAnswer:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        stream = FakeAnswer(self.script)
        self.answers.append(stream)
        self.submitted.set()
        return stream

    async def compute(self, request: PooledRequest) -> Finished:
        self.computed.append(request)
        if self.refusal is not None:
            raise self.refusal
        usage = Usage(prompt_tokens=3)
        return Finished(reason=FinishReason.STOP, piece=Piece(), usage=usage, cache_reason="off", result=self.result)

    async def tokenize(self, prompt: str | Conversation) -> list[int]:
        text = prompt if isinstance(prompt, str) else "".join(message.content for message in prompt.messages)
        return list(text.encode())

    async def detokenize(self, tokens: Sequence[int]) -> str:
        if any(not 0 <= token < 256 for token in tokens):
            raise InvalidRequest("tokens", "an id is outside [0, 256)")
        return bytes(tokens).decode("utf-8", "replace")

    async def model_facts(self) -> ModelFacts:
        if self._config is None:
            raise ModelNotLoaded
        return ModelFacts(
            supports_thinking=True, tool_markers=ToolMarkers(format_type="json_tools", call_start="<tool_call>")
        )

    async def create_prefix(self, request: GenerationRequest) -> None:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        made = {"nbytes": 7, "hits": 0, "age_s": 1.5, "idle_s": None, "where": "memory"}
        self.prefixes[request.tenant, request.keep_as] = PrefixFacts(name=request.keep_as, tokens=3, **made)

    async def list_prefixes(self, tenant: str) -> list[PrefixFacts]:
        return [facts for (whose, _), facts in self.prefixes.items() if whose == tenant]

    async def delete_prefix(self, tenant: str, name: str) -> bool:
        return self.prefixes.pop((tenant, name), None) is not None

    async def clear_cache(self, tenant: str | None) -> None:
        self.prefixes = {key: facts for key, facts in self.prefixes.items() if tenant not in (None, key[0])}

    async def cache_report(self) -> CacheReport:
        figures = {"hits": 1.0, "fetches": 4.0, "tokens_matched": 30.0, "tokens_asked": 40.0}
        return CacheReport(figures=figures, isolation="performance", keeps="all")

    def status(self) -> EngineStatus:
        state: EngineState = "ready" if self._config else "uninitialized"
        return EngineStatus(state=state, total_bytes=42, breakdown={"weights": 40, "live_kv": 2})

    def metrics(self) -> EngineMetrics:
        return EngineMetrics(tokens_per_second=10.0, tokens_generated=2**40, prompt_tokens_processed=7)

    def info(self) -> WorkerInfo:
        return WorkerInfo(version="1", model=self.loaded_identity() or "", blas="none", cache={"hits": 1.0})

    def figures(self) -> EngineFigures:
        return EngineFigures(worker={"version": "1"}, numbers={"engine_up": self.alive})
