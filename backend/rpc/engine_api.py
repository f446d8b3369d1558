"""The engine as the services see it. `backend.engine.handle.EngineHandle` is one; tests write their own."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from backend.config import ModelConfig
from backend.core.events import Event, Finished
from backend.core.pooled import PooledRequest
from backend.core.reports import (
    CacheReport,
    EngineFigures,
    EngineMetrics,
    EngineStatus,
    ModelFacts,
    PrefixFacts,
    WorkerInfo,
)
from backend.core.request import Conversation, GenerationRequest


class AnswerEvents(Protocol):
    """One answer: any number of `Delta`, then exactly one `Finished` or `Failed`."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    def cancel(self) -> None:
        """Nobody reads any more; harmless after the end and when called twice."""
        ...


class EngineApi(Protocol):
    """Event loop only. Every method may raise a `WorkerError`, and nothing else on purpose."""

    @property
    def alive(self) -> bool:
        """False once the engine thread is dead; it never comes back."""
        ...

    @property
    def ending(self) -> str:
        """Why it is dead, in one line; empty while it is not, or nobody knows."""
        ...

    async def died(self) -> str:
        """Wait until the engine thread is dead without having been closed; why, in one line."""
        ...

    async def close(self) -> None:
        """End what runs with `WorkerUnavailable`, then join the engine's threads."""
        ...

    async def load(self, config: ModelConfig) -> None:
        """Load a model, or replace the loaded one; the same configuration again is a no-op. Loads are serialised.

        Raises:
            ModelLoadFailed: One line that names the file or field.
        """
        ...

    async def free(self) -> None:
        """Drop the model; running requests end with `RequestAborted`. Without a model nothing happens."""
        ...

    def loaded_identity(self) -> str | None:
        """`ModelConfig.identity` of the loaded model."""
        ...

    def model_config(self) -> ModelConfig | None:
        """The loaded model's configuration."""
        ...

    async def submit(self, request: GenerationRequest) -> AnswerEvents:
        """Admit a request.

        Raises:
            InvalidRequest, ModelNotLoaded, Overloaded, WorkerUnavailable, DeadlineExceeded.
        """
        ...

    async def compute(self, request: PooledRequest) -> Finished:
        """Run a request for numbers to its end, which has them; what `submit` raises, its end, and `Unsupported`."""
        ...

    async def tokenize(self, prompt: str | Conversation) -> list[int]:
        """Token ids, as `submit` would run them.

        Raises:
            InvalidRequest, ModelNotLoaded, WorkerUnavailable; Overloaded: too many such calls are in flight.
        """
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids.

        Raises:
            InvalidRequest: An id is outside the vocabulary, or there are too many; what `tokenize` raises.
        """
        ...

    async def model_facts(self) -> ModelFacts:
        """Facts of the loaded model; what `tokenize` raises."""
        ...

    async def create_prefix(self, request: GenerationRequest) -> None:
        """Run a request that generates nothing and keeps its prompt under a name; what `submit` raises, and its end."""
        ...

    async def list_prefixes(self, tenant: str) -> Sequence[PrefixFacts]:
        """What the tenant has under names, oldest first."""
        ...

    async def delete_prefix(self, tenant: str, name: str) -> bool:
        """Let a name go; False if the tenant has none of that name."""
        ...

    async def clear_cache(self, tenant: str | None) -> None:
        """Drop what one tenant has cached, names included; None is everybody's."""
        ...

    async def cache_report(self) -> CacheReport:
        """What the prompt cache did since the load."""
        ...

    def status(self) -> EngineStatus: ...

    def metrics(self) -> EngineMetrics: ...

    def info(self) -> WorkerInfo: ...

    def figures(self) -> EngineFigures:
        """What an operator may know. Any thread may ask."""
        ...
