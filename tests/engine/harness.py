"""A real engine in this process: real threads, a real model, no network. The BLAS is the reference one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from backend.config import CacheConfig, Drafter, EngineConfig, ModelConfig
from backend.core.errors import WorkerError
from backend.core.events import Delta, Failed, Finished, TokenLogprob
from backend.core.request import Conversation, GenerationRequest, Sampling
from backend.engine.handle import EngineHandle
from backend.engine.loading import LoadedModel, load_model
from tests import chosen

T = TypeVar("T")
NO_CACHE = CacheConfig(max_sequences=0)
NO_DRAFTERS: frozenset[Drafter] = frozenset()


@dataclass(slots=True)
class Answer:
    """What a client has when its request is over."""

    text: str = ""
    end: Finished | None = None
    error: WorkerError | None = None
    deltas: list[Delta] = field(default_factory=list[Delta])

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of every token; compared bit for bit."""
        assert self.end is not None, self.error
        return self.end.logprobs

    @property
    def tokens(self) -> list[int]:
        """Ids of every token."""
        return [entry.id for entry in self.logprobs]


def request(prompt: str | Conversation, *, n: int = 16, name: str = "r", **options: object) -> GenerationRequest:
    """A request with logprobs, greedy unless it says otherwise."""
    sampling = options.pop("sampling", Sampling())
    return GenerationRequest(  # type: ignore[arg-type]
        request_id=name, prompt=prompt, max_tokens=n, logprobs=5, sampling=sampling, **options
    )


async def read(engine: EngineHandle, wanted: GenerationRequest, *, cancel_after: int | None = None) -> Answer:
    """Run one request to its end; `cancel_after` leaves after so many deltas."""
    answer = Answer()
    try:
        stream = await engine.submit(wanted)
    except WorkerError as error:
        answer.error = error
        return answer
    async for event in stream:
        match event:
            case Delta():
                answer.text += event.piece.content
                answer.deltas.append(event)
                if cancel_after is not None and len(answer.deltas) >= cancel_after:
                    stream.cancel()
            case Finished():
                answer.text += event.piece.content
                answer.end = event
            case Failed(error=error):
                answer.error = error
    return answer


async def settled(handle: EngineHandle) -> dict[str, float]:
    """The queue's figures once nothing runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        queue = dict(handle.info().queue)
        if not (queue["in_flight"] or queue["decoding"] or queue["prefilling"] or queue["waiting"] or queue["storing"]):
            return queue
        await asyncio.sleep(0.002)
    raise AssertionError(queue)


def model_config(
    path: Path,
    *,
    engine: EngineConfig | None = None,
    cache: CacheConfig = NO_CACHE,
    drafters: frozenset[Drafter] = NO_DRAFTERS,
    as_served: bool = False,
    **options: object,
) -> ModelConfig:
    """A configuration for a directory, without prompt cache unless one is given.

    Args:
        drafters: Tests count steps and calls of the model: a pass over several tokens is what few of them expect.
        as_served: The processes for templates and grammars begin at the load. Most tests need neither.
    """
    engine = replace(engine or EngineConfig(), drafters=drafters)
    if engine.warm_up == "auto" and not as_served:
        engine = replace(engine, warm_up="off")
    if engine.sampler == "auto":
        engine = replace(engine, sampler=chosen.sampler)
    return ModelConfig(  # type: ignore[arg-type]
        identity=path.name, candidates=(str(path),), engine=engine, cache=cache, **options
    )


def with_engine(
    config: ModelConfig | None,
    body: Callable[[EngineHandle], Awaitable[T]],
    *,
    load: Callable[..., LoadedModel] = load_model,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Start an engine, load, run `body`, stop; the engine thread is gone afterwards."""

    async def run() -> T:
        engine = EngineHandle(blas="reference", load=load, clock=clock)
        engine.start()
        try:
            if config is not None:
                await engine.load(config)
            return await asyncio.wait_for(body(engine), 240)
        finally:
            await engine.close()

    return asyncio.run(run())
