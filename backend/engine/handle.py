"""The engine as the event loop sees it: load, free, submit, and what it reports."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from backend.config import FLUSH_SECONDS, ModelConfig
from backend.core.errors import DeadlineExceeded, ModelNotLoaded, Overloaded, RequestCancelled, WorkerUnavailable
from backend.core.events import Failed, Finished
from backend.core.pooled import PooledRequest
from backend.core.reports import (
    CacheReport,
    EngineFigures,
    EngineMetrics,
    EngineState,
    EngineStatus,
    ModelFacts,
    PrefixFacts,
    WorkerInfo,
)
from backend.core.request import Conversation, GenerationRequest
from backend.engine import reports
from backend.engine.channel import AnswerStream
from backend.engine.crossing import Crossing
from backend.engine.figures import engine_figures
from backend.engine.inbox import Cancel, Inbox, Submit
from backend.engine.life import EngineLife
from backend.engine.loading import LoadedModel, load_model
from backend.engine.loads import Loads
from backend.engine.preparing.lanes import characters
from backend.engine.preparing.pooled import size_of
from backend.engine.preparing.requests import Prepared, RequestPreparer

T = TypeVar("T")

# A thread that computes ends with the process; one that waits has nothing to lose.
CLOSE_SECONDS = 0.3


class EngineHandle:
    """Event loop only. Nothing here calls MLX, tokenises or renders: that is the engine's and prep's work."""

    def __init__(
        self,
        *,
        blas: str = "auto",
        load: Callable[..., LoadedModel] = load_model,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` has the signature of `backend.engine.loading.load_model`; `blas` is what `load_blas` takes."""
        self._clock = clock
        self._inbox = Inbox()
        self._crossing = Crossing(self._inbox)
        self._life = EngineLife(self._inbox, self._crossing.wake, clock)
        self._thread = self._life.thread
        self._loads = Loads(self._thread, self._crossing.run, load, idle_since=self._idle_since, clock=clock)
        self._started_at = clock()
        self._blas = blas
        self._in_flight = 0
        self._last_end = clock()

    # Life

    @property
    def alive(self) -> bool:
        """Whether the engine thread works; False is final."""
        return self._life.alive

    @property
    def ending(self) -> str:
        """Why the engine is dead, in one line; empty while it is not."""
        return self._life.ending

    def start(self) -> None:
        """Start the engine thread; it imports mlx_lm there, while the port already answers."""
        self._life.start(self._blas)

    async def died(self) -> str:
        """Wait until the engine thread has died of an error, or hangs; why, in one line."""
        return await self._life.died(self._loads)

    async def close(self, *, within_s: float = CLOSE_SECONDS) -> None:
        """End everything that runs with `WorkerUnavailable`; a thread that does not end soon is left behind."""
        self._life.retire()
        self._loads.cancel(WorkerUnavailable("the worker is shutting down"))
        current = self._loads.current
        keeps = current is not None and current.config.cache.directory
        if not await self._life.end(within_s + (FLUSH_SECONDS if keeps else 0)):
            self._crossing.leave_behind()
        await self._loads.close()

    # Models

    async def load(self, config: ModelConfig) -> None:
        """Load a model in place of the present one; `Loads.load` says what it raises."""
        await self._loads.load(config)

    async def free(self) -> None:
        """Drop the model, ending its requests ABORTED, and stop a load; harmless when there is neither."""
        await self._loads.free()

    def model_config(self) -> ModelConfig | None:
        """The configuration of the loaded model."""
        return self._loads.current.config if self._loads.current else None

    def loaded_identity(self) -> str | None:
        """`ModelOptions.Model` of the loaded model, verbatim."""
        return self._loads.current.config.identity if self._loads.current else None

    def _require(self) -> RequestPreparer:
        if not self._life.alive:
            raise WorkerUnavailable("the engine is not running")
        if self._loads.current is None:
            raise ModelNotLoaded
        return self._loads.current

    # Requests

    async def submit(self, request: GenerationRequest) -> AnswerStream:
        """Admit a request.

        Raises:
            WorkerError: It is invalid for this model, there is no model, or the queue is full.
        """
        model = self._require()
        request = model.check(request)

        def preparing() -> Awaitable[Prepared]:
            return model.prep.run_for(request.prompt, model.prepare, request)

        return await self._submit(model, preparing, request.deadline)

    async def compute(self, request: PooledRequest) -> Finished:
        """Run a request for numbers to its end, which has them.

        Raises:
            WorkerError: As `submit`, and whatever ended it; `Unsupported` if the model cannot do it.
        """
        model = self._require()

        def preparing() -> Awaitable[Prepared]:
            return model.prep.run_sized(size_of(request.ask), model.prepare_pooled, request)

        return await _end_of(await self._submit(model, preparing, request.deadline))

    async def _submit(
        self, model: RequestPreparer, preparing: Callable[[], Awaitable[Prepared]], deadline: float | None
    ) -> AnswerStream:
        if deadline is not None and deadline <= self._clock():
            raise DeadlineExceeded
        limits = model.config.engine
        rows = limits.rows_together(batchable=model.facts.batchable)
        if self._in_flight >= rows + limits.queue_size:
            raise Overloaded(f"{self._in_flight} requests in flight, limit {rows} + {limits.queue_size}")
        accepted_at = self._clock()
        self._in_flight += 1
        stream = AnswerStream(
            self._cancel,
            self._ended,
            buffer_bytes=limits.reader_buffer_bytes,
            patience_s=limits.reader_patience_s,
            clock=self._clock,
        )
        try:
            prepared = await preparing()
            constraint = await model.constrain(prepared)
            await self._loads.awake(deadline)
            accepted = self._inbox.put(
                Submit(
                    request=prepared.request,
                    prompt=prepared.prompt,
                    max_tokens=prepared.max_tokens,
                    output=prepared.output,
                    # A text's tokens are told as they are written, an answer's as they are shown.
                    bytes_of=model.table.label_of if prepared.work else model.table.bytes_of,
                    constraint=constraint,
                    stream=stream,
                    generation=model.facts.generation,
                    accepted_at=accepted_at,
                    work=prepared.work,
                )
            )
            if not accepted:
                raise WorkerUnavailable("the engine is not running")
        except BaseException:
            stream.discard()
            raise
        return stream

    def _cancel(self, stream: AnswerStream) -> None:
        self._inbox.put(Cancel(stream))

    def _ended(self) -> None:
        self._in_flight -= 1
        self._last_end = self._clock()

    def _idle_since(self) -> float | None:
        return None if self._in_flight else self._last_end

    async def tokenize(self, prompt: str | Conversation) -> list[int]:
        """Token ids of a prompt, as Predict would feed a conversation; raw text without special tokens.

        Raises:
            WorkerError: It is invalid, there is no model, or too many such calls are in flight.
        """
        model = self._require()
        return await model.prep.run_unqueued(characters(prompt), model.tokenize, prompt)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids; what `tokenize` raises."""
        model = self._require()
        # An id takes about as long to decode as a character to encode.
        return await model.prep.run_unqueued(len(tokens), model.detokenize, tokens)

    # The prompt cache

    async def create_prefix(self, request: GenerationRequest) -> None:
        """Run a request that generates nothing and keeps its prompt under a name.

        Raises:
            WorkerError: As `submit`, and whatever ended it.
        """
        await _end_of(await self.submit(request))

    async def list_prefixes(self, tenant: str) -> list[PrefixFacts]:
        """What the tenant has under names, oldest first."""
        return await self._with_cache(lambda held: held.prefix.kept.facts(tenant, held.loaded.kv_cost, self._clock()))

    async def delete_prefix(self, tenant: str, name: str) -> bool:
        """Let a name go; False if the tenant has none of that name."""
        return await self._with_cache(lambda held: held.prefix.kept.let_go(name, tenant))

    async def clear_cache(self, tenant: str | None) -> None:
        """Drop what one tenant has cached, names included; None is everybody's."""
        await self._with_cache(lambda held: held.prefix.erase(tenant))

    async def cache_report(self) -> CacheReport:
        """What the prompt cache did since the load."""
        model = self._require()
        figures = await self._with_cache(lambda held: held.prefix.figures())
        return reports.cache_report(model, figures)

    async def _with_cache(self, work: Callable[[Any], T]) -> T:
        """What `work` makes of the loaded model, awake or not: its prompt cache is there in any case."""
        self._require()

        def with_held() -> T:
            held = self._thread.session or self._thread.asleep
            if held is None:
                raise ModelNotLoaded
            return work(held)

        return await self._crossing.run(with_held)

    # Reports

    async def model_facts(self) -> ModelFacts:
        """What a host may want to know of the model; what `tokenize` raises."""
        model = self._require()
        return await model.prep.run_unqueued(0, model.model_facts)

    def status(self) -> EngineStatus:
        """The state and the memory, as of the last step."""
        return reports.status(self._state(), self._thread.picture)

    def metrics(self) -> EngineMetrics:
        """Speed and totals since the load."""
        return reports.metrics(self._thread.picture)

    def figures(self) -> EngineFigures:
        """What an operator may know, as of the last step. Any thread may ask, whatever this loop and the engine do."""
        return engine_figures(
            self._loads.current,
            self._thread.picture,
            alive=self._life.alive,
            asleep=self._loads.asleep_since is not None,
            in_flight=self._in_flight,
        )

    def info(self) -> WorkerInfo:
        """Everything the Info service tells."""
        uptime = self._clock() - self._started_at
        return reports.info(
            self._loads.current,
            self._thread.picture,
            blas=self._life.blas,
            uptime_s=uptime,
            in_flight=self._in_flight,
            asleep_since=self._loads.asleep_since,
        )

    def _state(self) -> EngineState:
        if not self._life.alive:
            return "error"
        if self._loads.loading:
            return "busy"
        if self._loads.current is None:
            return "uninitialized"
        return "busy" if self._in_flight else "ready"

    # Measurements

    async def with_session(self, work: Callable[[Any], T]) -> T:
        """What `work` makes of the engine thread's session, there and between two steps: for measurements.

        Nothing else runs meanwhile, and no MLX object may leave in the result.
        """
        self._require()
        await self._loads.awake()
        return await self._crossing.run(lambda: work(self._thread.session))


async def _end_of(stream: AnswerStream) -> Finished:
    """The end of a request that is not read in pieces; whoever stops waiting for it ends it.

    Raises:
        WorkerError: It failed.
    """
    try:
        async for event in stream:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                return event
    finally:
        stream.cancel()
    raise RequestCancelled
