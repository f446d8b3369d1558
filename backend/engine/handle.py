"""The engine as the event loop sees it: load, free, submit, and what it reports."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from backend.config import ModelConfig
from backend.core.errors import DeadlineExceeded, ModelNotLoaded, Overloaded, WorkerUnavailable
from backend.core.reports import EngineMetrics, EngineState, EngineStatus, ModelFacts, WorkerInfo
from backend.core.request import Conversation, GenerationRequest
from backend.engine import reports
from backend.engine.channel import AnswerStream, Outbox
from backend.engine.inbox import Call, Cancel, Inbox, Stop, Submit
from backend.engine.loader import Loader
from backend.engine.preparing.lanes import Lanes
from backend.engine.preparing.requests import RequestPreparer
from backend.engine.thread import EngineThread

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5


class EngineHandle:
    """Event loop only. Nothing here calls MLX, tokenises or renders: that is the engine's and prep's work."""

    def __init__(
        self,
        loader: Loader,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._loader = loader
        self._clock = clock
        self._inbox = Inbox()
        self._thread = EngineThread(
            self._inbox,
            Outbox(self._wake),
            clock,
            lambda cause: self._wake(partial(self._died, cause)),
            loader.empty_picture,
        )
        self._death: asyncio.Future[str] = self._loop.create_future()
        self._started_at = clock()
        self._loading: threading.Event | None = None  # of the load that runs; set, it stops
        self._prep = Lanes()
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._load_lock = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._served: RequestPreparer | None = None
        self._in_flight = 0
        self._alive = True

    def _wake(self, callback: Callable[[], None]) -> None:
        # A loop that is already closed has no reader left to tell.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    def _died(self, cause: BaseException) -> None:
        self._alive = False
        if not self._death.done():
            self._death.set_result(f"the engine cannot go on: {cause!r}"[:500])

    # Life

    @property
    def alive(self) -> bool:
        """Whether the engine thread works; False is final."""
        return self._alive

    def start(self) -> None:
        """Start the engine thread; it imports mlx_lm there, while the port already answers."""
        self._thread.start()
        self._inbox.put(Call(self._loader.warm_up, self._warmed_up))

    def _warmed_up(self, _result: Any, error: Exception | None) -> None:
        # Without its libraries the engine will never serve; better to say so than to fail every load.
        if error is not None:
            self._wake(partial(self._died, error))

    async def died(self) -> str:
        """Wait until the engine thread has died of an error, or hangs; why, in one line."""
        while not self._death.done():
            await asyncio.wait([self._death], timeout=1.0)
            self._watch()
        return self._death.result()

    def _watch(self) -> None:
        started, served = self._thread.heartbeat, self._served
        limit = served.config.engine.watchdog_s if served else None
        if started is not None and limit is not None and self._clock() - started > limit and not self._death.done():
            self._alive = False
            self._death.set_result(f"the engine has been in one step for {limit:g} s")

    async def close(self) -> None:
        """End everything that runs with `WorkerUnavailable` and join the engine thread."""
        self._alive = False
        self._cancel_load()
        self._inbox.put(Stop())
        ended = await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        if not ended:
            log.error("event=engine_did_not_stop seconds=%d", CLOSE_SECONDS)
        served, self._served = self._served, None
        if served is not None:
            served.closing.set()
            served.close()
        self._prep.shutdown()
        self._files.shutdown(wait=False, cancel_futures=True)

    # Models

    async def load(self, config: ModelConfig) -> None:
        """Load a model in place of the present one; nothing happens if this very configuration is loaded.

        Raises:
            ModelLoadFailed: With one line that names the file or field; no model is loaded then, unless the
                files could not even be found, in which case the present model stays.
            WorkerUnavailable: The engine is stopping or dead.
        """
        cancelled = threading.Event()
        try:
            await self._to_its_end(self._load_in_turn(config, cancelled))
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def _load_in_turn(self, config: ModelConfig, cancelled: threading.Event) -> None:
        async with self._load_lock:
            if cancelled.is_set() or (self._served is not None and self._served.config == config):
                return
            self._loading = cancelled
            try:
                path = await self._in_files(self._loader.locate, config, cancelled)
                await self._drop()
                await self._load(config, path, cancelled)
            finally:
                self._loading = None
                cancelled.set()
                if self._served is None:
                    await asyncio.shield(self._on_engine(lambda: self._thread.replace_session(None)))

    async def _load(self, config: ModelConfig, path: Any, cancelled: Any) -> None:
        make = partial(self._loader.session, config, path, cancelled, self._thread)
        loaded = await self._on_engine(make)
        self._served = await self._prep.run(self._loader.served, config, loaded)

    async def free(self) -> None:
        """Drop the model, ending its requests ABORTED, and stop a load; harmless when there is neither."""
        self._cancel_load()
        await self._to_its_end(self._free_in_turn())

    def _cancel_load(self) -> None:
        if self._loading is not None:
            self._loading.set()

    async def _free_in_turn(self) -> None:
        async with self._load_lock:
            await self._drop()

    async def _to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Run a change of model whether or not its client stays: half of one would keep a process and memory."""
        task = self._loop.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # of a client that has left: seen, so that asyncio does not complain

    async def _drop(self) -> None:
        served, self._served = self._served, None
        if served is None:
            return
        # What waits for a prep thread is not worth preparing any more.
        served.closing.set()
        await self._on_engine(lambda: self._thread.replace_session(None))
        await self._prep.run(served.close)

    def _require(self) -> RequestPreparer:
        if not self._alive:
            raise WorkerUnavailable("the engine is not running")
        if self._served is None:
            raise ModelNotLoaded
        return self._served

    def model_config(self) -> ModelConfig | None:
        """The configuration of the loaded model."""
        return self._served.config if self._served else None

    def loaded_identity(self) -> str | None:
        """`ModelOptions.Model` of the loaded model, verbatim."""
        return self._served.config.identity if self._served else None

    # Requests

    async def submit(self, request: GenerationRequest) -> AnswerStream:
        """Admit a request.

        Raises:
            WorkerError: It is invalid for this model, there is no model, or the queue is full.
        """
        served = self._require()
        request = served.check(request)
        if request.deadline is not None and request.deadline <= self._clock():
            raise DeadlineExceeded
        limits = served.config.engine
        rows = limits.max_rows if served.facts.batchable else 1
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
            prepared = await self._prep.run_for(request.prompt, served.prepare, request)
            constraint = await served.constrain(prepared)
            accepted = self._inbox.put(
                Submit(
                    request=prepared.request,
                    prompt=prepared.prompt,
                    max_tokens=prepared.max_tokens,
                    output=prepared.output,
                    token_bytes=served.table.bytes_of,
                    constraint=constraint,
                    stream=stream,
                    generation=served.generation,
                    accepted_at=accepted_at,
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

    async def tokenize(self, prompt: str | Conversation) -> list[int]:
        """Token ids of a prompt, as Predict would feed a conversation; raw text without special tokens."""
        served = self._require()
        return await self._prep.run_for(prompt, served.tokenize, prompt)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        served = self._require()
        return await self._prep.run(served.detokenize, tokens)

    # Reports

    async def model_facts(self) -> ModelFacts:
        """What a host may want to know of the model."""
        served = self._require()
        return await self._prep.run(served.model_facts)

    def status(self) -> EngineStatus:
        """The state and the memory, as of the last step."""
        return reports.status(self._state(), self._thread.snapshot)

    def metrics(self) -> EngineMetrics:
        """Speed and totals since the load."""
        return reports.metrics(self._thread.snapshot)

    def info(self) -> WorkerInfo:
        """Everything the Info service tells."""
        uptime = self._clock() - self._started_at
        return reports.info(self._served, self._thread.snapshot, self._loader.blas, uptime, self._in_flight)

    def _state(self) -> EngineState:
        if not self._alive:
            return "error"
        if self._loading is not None:
            return "busy"
        if self._served is None:
            return "uninitialized"
        return "busy" if self._in_flight else "ready"

    # Crossing

    async def _in_files(self, work: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._files, work, *args)

    async def _on_engine(self, work: Callable[[], Any]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        if not self._inbox.put(Call(work, lambda result, error: self._wake(partial(settle, result, error)))):
            raise WorkerUnavailable("the engine is not running")
        return await future
