"""Embeddings and scores beside the model by itself, and texts a second together and one at a time."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from statistics import median

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.check.counting import counting, launches_of
from backend.check.driving import random_tokens
from backend.check.section import Section
from backend.core.pooled import EmbedAsk, PooledRequest, PooledResult, ScoreAsk, Scores, Vectors
from backend.engine.batching.pooled.texts import padded
from backend.engine.batching.pooled.units import TextBatch
from backend.engine.batching.session import Session
from backend.engine.loading.loaded import Backbone

_LENGTHS = (5, 24, 60, 130, 260, 33, 90, 48)
_TEXTS, _CLIENTS = 32, 16
_ROUNDS = 4
_TOGETHER, _MOST_BEYOND = 8, 6
# Of rows and tokens; no other part of the check has such.
_SHAPES = ((3, 21), (5, 27), (7, 37))
_CANDIDATES = (" yes", " no", " it is not known to anybody here", " yes, and the other too")


async def run(section: Section) -> None:
    """Compute the same one at a time, together, and straight from the model."""
    if section.subject.facts.pooled_reason:
        section.skip("embeddings", section.subject.facts.pooled_reason)
    else:
        await _embeddings(section)
        await _passes(section)
    await _scores(section)


async def _embeddings(section: Section) -> None:
    texts = [section.subject.text(length, f"vector {length}") for length in _LENGTHS]
    alone = [await _vector(section, text) for text in texts]
    together = await asyncio.gather(*(_vector(section, text) for text in texts))
    straight = [await section.subject.on_engine(partial(_straight, section.subject.encode(text))) for text in texts]
    bound = section.subject.facts.relative_bound
    for name, found in (("one at a time", alone), ("together", together)):
        apart = max(float(np.linalg.norm(a - b)) for a, b in zip(found, straight, strict=True))
        note = f"of vectors of length 1, the last token's hidden state; bound {bound:g}"
        section.require(f"embeddings {name}, against the model's own", apart, "apart", right=apart <= bound, note=note)
    ratios: list[float] = []
    rates: list[float] = []
    for round_ in section.allowance.rounds(2, _ROUNDS + 1):
        drawn = [
            [section.subject.text(_LENGTHS[n % len(_LENGTHS)], f"{round_} {way} {n}") for n in range(_TEXTS)]
            for way in ("alone", "together")
        ]
        one, many = await _seconds(section, drawn[0], 1), await _seconds(section, drawn[1], _CLIENTS)
        if round_:
            ratios.append(one / many)
            rates.append(_TEXTS / many)
    note = f"{median(ratios):.3g} times those of one at a time; 5 to 260 tokens, {_CLIENTS} clients"
    section.figure("texts embedded a second, together", median(rates), "texts/s", note, rounds=rates)


async def _passes(section: Section) -> None:
    beyond, waits = await section.subject.on_engine(_counted)
    note = f"{waits} waits; mark: {_MOST_BEYOND} launches and one wait"
    name = f"launches of a pass over {_TOGETHER} texts, beyond the model's"
    section.judge(name, float(beyond), "", good=beyond <= _MOST_BEYOND and waits <= 1, note=note)
    first, again = await section.subject.on_engine(_seconds_of_shapes)
    note = f"medians of {len(_SHAPES)} shapes of the bare model; then {again * 1e3:.3g} ms"
    section.figure("a pass of a shape that was not seen before", first * 1e3, "ms", note)


async def _scores(section: Section) -> None:
    subject = section.subject
    prompt = subject.text(200, "score")
    found = await _computed(section, ScoreAsk(prompt=prompt, candidates=_CANDIDATES))
    assert isinstance(found, Scores)
    told = [[token.logprob for token in scored] for scored in found.candidates]
    fed = [subject.encode(prompt + candidate) for candidate in _CANDIDATES]
    apart = 0.0
    spread = 0.0
    for logprobs, tokens in zip(told, fed, strict=True):
        own, wide = await subject.on_engine(partial(_logprobs, tokens, len(logprobs)))
        spread = max(spread, wide)
        apart = max(apart, max((abs(a - b) for a, b in zip(logprobs, own, strict=True)), default=0.0))
    bound = subject.facts.relative_bound * spread
    note = f"logprobs of {len(_CANDIDATES)} candidates' tokens; bound {bound:.3g}"
    section.require("scores, against the model's own", apart, "nats apart", right=apart <= bound, note=note)


async def _computed(section: Section, ask: EmbedAsk | ScoreAsk) -> PooledResult:
    ended = await section.subject.handle.compute(PooledRequest(request_id="pooled", ask=ask))
    assert ended.result is not None
    return ended.result


async def _vector(section: Section, text: str) -> NDArray[np.float32]:
    """As Embedding gives it, at length 1, `[width]`."""
    found = await _computed(section, EmbedAsk(tokens=tuple(section.subject.encode(text).tolist())))
    assert isinstance(found, Vectors)
    return _unit(np.frombuffer(found.data, "<f4")[-found.dim :])


async def _seconds(section: Section, texts: Sequence[str], clients: int) -> float:
    """For all, asked by so many clients at once."""
    left = iter(texts)

    async def client() -> None:
        for text in left:
            await _vector(section, text)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began


def _straight(tokens: NDArray[np.int32], session: Session) -> NDArray[np.float32]:
    """The last hidden state of one text in one pass, at length 1, `[width]`."""
    backbone = session.loaded.backbone
    assert isinstance(backbone, Backbone)
    hidden = backbone.forward(mx.array(tokens)[None], cache=backbone.new_cache())[0, -1].astype(mx.float32)
    return _unit(np.array(hidden))


def _counted(session: Session) -> tuple[int, int]:
    """Launches of a batch beyond those of the model by itself, and waits."""
    backbone = session.loaded.backbone
    assert isinstance(backbone, Backbone)
    tokens = [random_tokens(session, 40 + index, index) for index in range(_TOGETHER)]
    turns = session.pooled.turns
    batch = TextBatch(
        parts=[], tokens=tokens, pooling="last", backbone=backbone, shapes=turns.shapes, chunk=turns.chunk
    )
    with counting() as counts:
        made = batch.begin()
        made.run(made.layers)
        batch.take(made.output)
    bare = backbone.forward(mx.array(padded(tokens, made.shape)), cache=backbone.new_cache())
    return counts.launches.total() - launches_of(bare).total(), counts.waits


def _seconds_of_shapes(session: Session) -> tuple[float, float]:
    """Of a pass of the bare model whose shape is new, and of the same once more; medians."""
    backbone = session.loaded.backbone
    assert isinstance(backbone, Backbone)
    seconds: list[list[float]] = [[], []]
    for shape in _SHAPES:
        for found in seconds:
            began = time.perf_counter()
            mx.eval(backbone.forward(mx.ones(shape, mx.int32), cache=backbone.new_cache()))
            found.append(time.perf_counter() - began)
    return median(seconds[0]), median(seconds[1])


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _logprobs(tokens: NDArray[np.int32], count: int, session: Session) -> tuple[list[float], float]:
    """Of the last `count` tokens in one pass, and the range of their logits."""
    logits = session.loaded.model(mx.array(tokens)[None], cache=session.loaded.new_cache())[0].astype(mx.float32)
    logits = logits[len(tokens) - count - 1 : -1]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    own = mx.take_along_axis(logprobs, mx.array(tokens[len(tokens) - count :])[:, None], axis=-1)[:, 0]
    wide = mx.max(logits, axis=-1) - mx.min(logits, axis=-1)
    mx.eval(own, wide)
    return np.asarray(own).tolist(), max(np.asarray(wide).tolist(), default=0.0)
