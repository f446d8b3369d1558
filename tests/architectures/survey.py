"""What one architecture does in this worker: loads, answers alone as mlx-lm does, in company, and on cache hits."""

import asyncio
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.generate import stream_generate
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from backend.config import ALL_DRAFTERS, CacheConfig, EngineConfig
from backend.core.errors import WorkerError
from backend.core.reports import WorkerInfo
from backend.core.request import GenerationRequest
from backend.engine.batching.prefix_cache import needs_snapshots
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from backend.engine.kv import merging
from backend.engine.kv.going_back import can_go_back
from backend.engine.loading.kv_cost import leaves
from backend.engine.loading.probe.company import FLOAT32_TOLERANCE
from backend.engine.loading.probe.trial import first_pass
from backend.engine.loading.tokenizer import load_tokenizer
from mlx_cache.payload import MlxPayload
from tests.engine.harness import Answer, model_config, read, request, with_engine

# Of a log-probability, in float32. A right model stays under 1e-4; one that is batched wrongly is over 1e-2.
WITHIN = 2e-3
CHUNK = 64
NEW_TOKENS = 10
# Two tokens and one; shorter and longer than windows, blocks and chunks of the small models.
LENGTHS = (1, 2, 3, 25, 33, 64, 90, 150)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table. Differences are of log-probabilities; infinite where a token differs or is missing.

    Attributes:
        refusal: Why it does not load; nothing else is known then.
        serial_reason: Why its rows are served one at a time; empty where they decode together.
        uncached_reason: Why the prompt cache keeps nothing; empty where it does.
        speculation_reason: Why a step looks at one token of a row only; empty where it may look at guesses.
        drafts: Whether it may itself be the draft model of another.
        caches: The layer cache classes that the model makes.
        known: Whether the prompt cache knows all of those by itself.
        cut: Whether a cached prompt can be cut at any token; otherwise it is found where it was stored.
        alone: Largest difference between an answer alone and mlx-lm's own.
        company: The same for answers in a crowd.
        hits: The same for answers from the prompt cache, one after the other and in a crowd.
        repeated: Tokens that a repeated prompt took from the cache, of `repeatable` that it could.
        extended: Tokens that a follow-up took from the cache, of `extendable` that were there.
    """

    module: str
    refusal: str = ""
    serial_reason: str = ""
    uncached_reason: str = ""
    speculation_reason: str = ""
    drafts: bool = True
    caches: tuple[str, ...] = ()
    known: bool = True
    cut: bool = True
    alone: float = 0.0
    company: float = 0.0
    hits: float = 0.0
    repeated: int = 0
    repeatable: int = 0
    extended: int = 0
    extendable: int = 0

    @property
    def right(self) -> bool:
        """Whether every answer was mlx-lm's own."""
        return max(self.alone, self.company, self.hits) <= WITHIN

    @property
    def rounds(self) -> bool:
        """Whether it is the last bits alone for which a step may not look at guesses: roundings, allowed elsewhere."""
        told = re.search(r"by (\S+) of their range$", self.speculation_reason)
        return told is not None and float(told[1]) <= FLOAT32_TOLERANCE

    @property
    def hit(self) -> bool:
        """Whether a repeated prompt took all but its last token from the cache, and a follow-up took from it too."""
        return 0 < self.repeatable == self.repeated and self.extended >= self.repeatable


@dataclass(frozen=True, slots=True)
class Expected:
    """mlx-lm's answer: its tokens, and for each the log-probabilities of the vocabulary."""

    tokens: list[int]
    logprobs: np.ndarray


def survey(path: Path) -> Finding:
    """Run the model directory through everything."""
    prompts = [_text(length, seed) for seed, length in enumerate(LENGTHS)]
    options = EngineConfig(prefill_chunk=CHUNK, max_rows=5)
    try:
        info, alone, crowd = with_engine(model_config(path, engine=options), lambda engine: _cold(engine, prompts))
    except WorkerError as error:
        return Finding(module=path.name, refusal=re.sub(rf"^{re.escape(str(path))}.*?: ", "", error.message))
    guessed = model_config(path, engine=options, drafters=ALL_DRAFTERS)
    speculation_reason, drafts = with_engine(guessed, _speculation)
    cached = model_config(path, engine=options, cache=CacheConfig(max_bytes=1 << 28))
    asked = with_engine(cached, _warm)
    reference = Reference(path)
    expected = [reference.answer(prompt) for prompt in prompts]
    wanted = {text: reference.answer(text) for text, _ in asked}
    (_, cold), *warm = asked
    return Finding(
        module=path.name,
        serial_reason=info.details.get("serial_reason", ""),
        uncached_reason=info.details.get("uncached_reason", ""),
        speculation_reason=speculation_reason,
        drafts=drafts,
        caches=reference.caches,
        known=not MlxPayload().unknown(reference.new_cache()),
        cut=not needs_snapshots(reference.new_cache()),
        alone=_worst([*zip(alone, expected, strict=True), (cold, wanted[asked[0][0]])]),
        company=_worst(zip(crowd, expected, strict=True)),
        hits=_worst((answer, wanted[text]) for text, answer in warm),
        repeated=_cached(warm[0][1]),
        repeatable=len(reference.encode(warm[0][0])) - 1,
        extended=_cached(warm[1][1]),
        extendable=reference.common(warm[0][0], warm[0][1].tokens, warm[1][0]),
    )


def _cached(answer: Answer) -> int:
    return answer.end.usage.cached_tokens if answer.end is not None else 0


def _text(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnop ,.", k=length))


def _request(text: str) -> GenerationRequest:
    return request(text, n=NEW_TOKENS)


async def _cold(engine: EngineHandle, prompts: Sequence[str]) -> tuple[WorkerInfo, list[Answer], list[Answer]]:
    alone = [await read(engine, _request(text)) for text in prompts]

    async def arrive(place: int, text: str) -> Answer:
        # Each when the one before has got somewhere: rows join and leave at different steps.
        for _ in range(place):
            await asyncio.sleep(0.004)
        if place == 3:
            await read(engine, _request(text), cancel_after=2)
        return await read(engine, _request(text))

    crowd = await asyncio.gather(*(arrive(place, text) for place, text in enumerate(prompts)))
    return engine.info(), alone, list(crowd)


async def _speculation(engine: EngineHandle) -> tuple[str, bool]:
    """Why the load looks at no guesses, and whether the model could make them for another."""

    def goes_back(session: Session) -> bool:
        caches = first_pass(session.loaded.model, session.loaded.new_cache)
        return session.loaded.batchable and can_go_back([merging.alone(cache) for cache in caches])

    told = engine.info().details["speculation"]
    return told.removeprefix("off: ") if told.startswith("off") else "", await engine.with_session(goes_back)


async def _warm(engine: EngineHandle) -> list[tuple[str, Answer]]:
    """A prompt, the same again, a follow-up to its answer, then those and two more that branch off, all at once."""
    first = _text(100, 77)
    cold = await read(engine, _request(first))
    again = await read(engine, _request(first))
    follow_up = first + again.text + _text(40, 78)
    extended = await read(engine, _request(follow_up))
    texts = [first, follow_up, first[:70] + _text(30, 79), follow_up + "abc"]
    crowd = await asyncio.gather(*(read(engine, _request(text)) for text in texts))
    return [(first, cold), (first, again), (follow_up, extended), *zip(texts, crowd, strict=True)]


class Reference:
    """mlx-lm by itself: its own loader and `stream_generate`, one prompt at a time."""

    def __init__(self, path: Path) -> None:
        self._model, config = load_model(path)
        # As the worker does, so that the text of an answer is told apart from control tokens in the same way.
        self._tokenizer = load_tokenizer(path, settings=config)

    def new_cache(self) -> list[object]:
        """Fresh layer caches."""
        return make_prompt_cache(self._model)

    @property
    def caches(self) -> tuple[str, ...]:
        """The classes of the layer caches."""
        return tuple(sorted({type(cache).__name__ for cache in leaves(self.new_cache())}))

    def encode(self, text: str) -> list[int]:
        """Token ids as a raw prompt has them."""
        return list(self._tokenizer.encode(text))

    def common(self, prompt: str, answer: Sequence[int], follow_up: str) -> int:
        """Tokens of the follow-up that were in the KV after the answer, of which the last was never fed."""
        before, now = [*self.encode(prompt), *answer][:-1], self.encode(follow_up)
        return next(
            (i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now))
        )

    def answer(self, text: str) -> Expected:
        """Greedy; the token that ends an answer is not part of it."""
        steps = stream_generate(
            self._model, self._tokenizer, self.encode(text), max_tokens=NEW_TOKENS, prefill_step_size=CHUNK
        )
        tokens: list[int] = []
        rows: list[np.ndarray] = []
        for step in steps:
            if step.token not in self._tokenizer.eos_token_ids:
                tokens.append(step.token)
                rows.append(np.asarray(step.logprobs.astype(mx.float32)))
        return Expected(tokens, np.asarray(rows))


def _worst(pairs: Iterable[tuple[Answer, Expected]]) -> float:
    return max((_difference(answer, expected) for answer, expected in pairs), default=0.0)


def _difference(answer: Answer, expected: Expected) -> float:
    """The largest difference of a log-probability, alternatives included."""
    if answer.error is not None or answer.tokens != expected.tokens:
        return float("inf")
    worst = 0.0
    for entry, row in zip(answer.logprobs, expected.logprobs, strict=True):
        for alternative in (entry, *entry.top):
            worst = max(worst, abs(alternative.logprob - float(row[alternative.id])))
    return worst
