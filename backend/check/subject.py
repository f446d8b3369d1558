"""The model that is checked: loaded by the engine as a worker does it, and the prompts for it."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.config import Drafter, ModelConfig
from backend.core.errors import WorkerError
from backend.engine.handle import EngineHandle
from backend.engine.loading import LoadedModel, load_model
from backend.prompt.preparer import PromptPreparer

if TYPE_CHECKING:
    # MLX must not be imported before the engine thread has chosen its BLAS.
    from backend.engine.batching.session import Session

T = TypeVar("T")

# A model smaller than this does so little work a step that Python is all that is measured.
LEAST_WEIGHTS: Final = 32 << 20
_FREE_SECONDS: Final = 20.0
_WORDS: Final = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectFacts:
    """What sections need to know of the model and its device; no MLX object among it.

    Attributes:
        relative_bound: How far logits may differ by roundings, as a fraction of their range.
        experts: It is a mixture of experts, in which a rounding may decide a tie between two of them.
        kv_bytes_a_token: Of one row.
        budget_bytes: Of KV, live and cached.
        judges_speed: There is enough work in a step to say something of speed.
        serial_reason, speculation_reason, uncached_reason, pooled_reason: Why rows do not decode together, tokens are
            not guessed, the prompt cache keeps nothing, there are no embeddings; empty where they do.
    """

    dtype: str
    weight_bytes: int
    vocab_size: int
    eos_ids: frozenset[int]
    context_length: int
    serial_reason: str
    speculation_reason: str
    uncached_reason: str
    pooled_reason: str
    on_gpu: bool
    relative_bound: float
    experts: bool
    kv_bytes_a_token: int
    budget_bytes: int
    judges_speed: bool


class Subject:
    """Event loop only.

    Args:
        load: As `EngineHandle` takes it.
    """

    def __init__(self, *, blas: str, load: Callable[..., LoadedModel] = load_model) -> None:
        self.handle = EngineHandle(blas=blas, load=load)
        self._facts: SubjectFacts | None = None
        self._prompts: PromptPreparer | None = None
        self._tokens_a_word = 1.0
        self._drafters: frozenset[Drafter] = frozenset()

    @property
    def facts(self) -> SubjectFacts:
        """Of the loaded model."""
        assert self._facts is not None
        return self._facts

    async def load(self, config: ModelConfig) -> None:
        """Load a model in place of the present one. Raises what `EngineHandle.load` does."""
        await self.handle.load(config)
        self._facts, tokenizer = await self.on_engine(_look)
        # Steps of one token are what is measured, but for where guesses are.
        self._drafters = await self.on_engine(partial(_guess_by, frozenset()))
        self._prompts = PromptPreparer(tokenizer)
        self._tokens_a_word = len(self.encode(_WORDS)) / len(_WORDS.split())

    async def on_engine(self, work: "Callable[[Session], T]") -> T:
        """What `work` makes of the session, on the engine thread; see `EngineHandle.with_session`."""
        return await self.handle.with_session(work)

    @asynccontextmanager
    async def endless(self) -> AsyncGenerator[None]:
        """No token ends an answer in the body: a figure needs so many tokens, and to forbid one would cost a kernel."""
        ends = await self.on_engine(partial(_end_at, frozenset()))
        try:
            yield
        finally:
            await self.on_engine(partial(_end_at, ends))

    @asynccontextmanager
    async def guessing(self) -> AsyncGenerator[None]:
        """Tokens are guessed in the body, as a worker does it by itself."""
        await self.on_engine(partial(_guess_by, self._drafters))
        try:
            yield
        finally:
            await self.on_engine(partial(_guess_by, frozenset()))

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids of a raw prompt, as Predict feeds it, `[n]`."""
        assert self._prompts is not None
        return self._prompts.encode(text, add_special_tokens=True)

    def text(self, tokens: int, salt: int | str) -> str:
        """A prompt of about so many tokens; those of unlike salts share no more than a first word."""
        drawn = random.Random(f"text {salt}")
        words = [
            str(drawn.randrange(10**6)),
            *drawn.choices(_WORDS.split(), k=max(1, round(tokens / self._tokens_a_word) - 2)),
        ]
        return " ".join(words)

    async def close(self) -> None:
        """Stop the engine; first drop the model, which may take longer than the end of a worker waits."""
        with suppress(TimeoutError, WorkerError):
            await asyncio.wait_for(self.handle.free(), _FREE_SECONDS)
        await self.handle.close()


def _end_at(ids: frozenset[int], session: "Session") -> frozenset[int]:
    """Let these tokens end answers; the ones that did."""
    emitter = session.decoding.emitter
    before, emitter.eos_ids = emitter.eos_ids, ids
    return before


def _guess_by(drafters: frozenset[Drafter], session: "Session") -> frozenset[Drafter]:
    """Have these guess tokens; the ones that did."""
    before, session.speculating.kinds = session.speculating.kinds, drafters
    return before


def _look(session: "Session") -> tuple[SubjectFacts, Any]:
    import mlx.core as mx

    from backend.engine.loading.probe.company import FLOAT32_TOLERANCE, HALF

    loaded = session.loaded
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    dtype = getattr(mx, loaded.dtype)
    # GPUs may multiply float32 in a shorter format (TF32), which has the bits of float16.
    exact = HALF[mx.float16] if on_gpu else FLOAT32_TOLERANCE
    facts = SubjectFacts(
        dtype=loaded.dtype,
        weight_bytes=loaded.weight_bytes,
        vocab_size=loaded.vocab_size,
        eos_ids=loaded.eos_ids,
        context_length=loaded.context_length,
        serial_reason=loaded.serial_reason,
        speculation_reason=loaded.speculation_reason,
        uncached_reason=loaded.uncached_reason,
        pooled_reason=loaded.backbone if isinstance(loaded.backbone, str) else "",
        on_gpu=on_gpu,
        relative_bound=HALF.get(dtype, exact),
        experts=any("experts" in name for name in loaded.config),
        kv_bytes_a_token=max(1, loaded.kv_cost.bytes_for(1024) // 1024),
        budget_bytes=session.budget.total,
        judges_speed=loaded.weight_bytes >= LEAST_WEIGHTS,
    )
    return facts, loaded.tokenizer
