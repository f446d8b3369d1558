"""What a pass over drafted tokens costs in a real batch, and what steps cost by where rows end. Engine thread only."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.check.driving import prefilled, row
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.kv.going_back import Pass
from backend.engine.kv.merging import merged
from backend.engine.kv.row_caches import copied
from benchmarks.scripted import TOKENS

Clock = Callable[[], float]

DEPTHS = (1, 2, 4, 8)
HELD = 512
"""Tokens that a row holds."""


def passes(session: Session, count: int, rounds: int, clock: Clock) -> list[list[object]]:
    """For each depth: the model's pass alone; a pass of which all is drawn as drafted; one of which nothing is.

    Each in milliseconds, and in plain steps of the model alone or with its draw.
    """
    texts = _texts(count, HELD + rounds * (1 + 2 * sum(map(_width, DEPTHS))) + 2 * max(DEPTHS))
    session.loaded.model.follow({index + 1: text.tolist() for index, text in enumerate(texts)})
    batch = session.new_batch()
    batch.join(_rows(session, texts))
    kinds: dict[object, Callable[[], object]] = {("model", 0): lambda: _forward(session, batch, 1), 0: batch.step}
    for depth in DEPTHS:
        kinds["model", depth] = lambda depth=depth: _forward(session, batch, 1 + depth)
        kinds["right", depth] = lambda depth=depth: _verify(batch, texts, depth, right=True)
        kinds["wrong", depth] = lambda depth=depth: _verify(batch, texts, depth, right=False)
    found = _measured(kinds, rounds, clock)
    told: list[list[object]] = []
    for depth in (0, *DEPTHS):
        figures: list[object] = [count, depth]
        for kind in ("model", "right", "wrong"):
            base = found["model", 0] if kind == "model" else found[0]
            taken = found.get((kind, depth), base)
            figures += [1e3 * taken, taken / base]
        told.append(figures)
    return told


def columns(session: Session, count: int, rounds: int, clock: Clock) -> list[list[object]]:
    """Plain steps of the model in a batch whose rows end in one column, in several, and with mlx-lm's batch cache."""
    told: list[list[object]] = []
    model = session.loaded.model.model
    inputs = mx.array([[TOKENS + index] for index in range(count)])
    for held in (HELD, 4 * HELD):
        one = prefilled(session, _texts(1, held)[0])
        each = [[copied(cache) for cache in one] for _ in range(count)]
        level = [merged(layer) for layer in zip(*each, strict=True)]
        ragged = [merged(layer) for layer in zip(*each, strict=True)]
        back = list(range(count))
        for cache in ragged:
            if hasattr(cache, "rewind"):
                cache.rewind(back, cache.offset - mx.array(back))
        theirs = [layer[0].merge([copied(cache) for cache in layer]) for layer in zip(*each, strict=True)]
        batches = {"level": level, "in unlike columns": ragged, "mlx-lm's cache": theirs}

        def step(caches: list[Any]) -> None:
            mx.eval(model(inputs, cache=caches), [cache.state for cache in caches])

        steps = {name: partial(step, caches) for name, caches in batches.items()}
        found = _measured(steps, rounds, clock)
        told += [[name, count, held, 1e3 * taken, taken / found["level"]] for name, taken in found.items()]
    return told


def _width(depth: int) -> int:
    return 1 + depth


def _texts(count: int, tokens: int) -> list[NDArray[np.int32]]:
    """For each row the tokens of a script of its own."""
    rng = np.random.default_rng(5)
    return [((1 + index) * TOKENS + rng.integers(0, TOKENS, tokens)).astype(np.int32) for index in range(count)]


def _rows(session: Session, texts: Sequence[NDArray[np.int32]]) -> list[Row]:
    # One row's keys serve all: it is scripted what comes next.
    caches = prefilled(session, texts[0][:HELD])
    return [row(session, text[: HELD + 1], caches) for text in texts]


def _forward(session: Session, batch: Any, width: int) -> None:
    """The model alone, on copies that are forgotten."""
    caches = [copied(cache) for cache in batch._caches]  # noqa: SLF001  what a step is made of is nobody else's matter
    tokens = [[row.last_token] * width for row in batch.rows]
    run = Pass(session.loaded.model, caches, tokens, [row.covered for row in batch.rows])
    mx.eval(run.logits, [cache.state for cache in caches])


def _verify(batch: Any, texts: Sequence[NDArray[np.int32]], depth: int, *, right: bool) -> None:
    drafts: list[list[int]] = []
    for one, text in zip(batch.rows, texts, strict=True):
        coming = text[one.covered + 1 : one.covered + 1 + depth]
        drafts.append((coming if right else coming * 0).tolist())
    verification = batch.verify(drafts)
    while verification.next():
        pass
    verification.close()
    batch.settle()


def _measured(kinds: Mapping[Any, Callable[[], object]], rounds: int, clock: Clock) -> dict[Any, float]:
    """Seconds of each at its quickest; they take turns."""
    found: dict[Any, float] = {}
    for _ in range(rounds):
        for name, run in kinds.items():
            started = clock()
            run()
            found[name] = min(clock() - started, found.get(name, math.inf))
    return found
