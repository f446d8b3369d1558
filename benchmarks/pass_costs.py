"""What a pass over drafted tokens costs in a real batch, and what steps cost by where rows end. Engine thread only."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.check.driving import prefilled, row
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.kv.merging import merged
from backend.engine.kv.row_caches import copied
from benchmarks.scripts import SIZE

Clock = Callable[[], float]

DEPTHS = (1, 2, 4, 8)
HELD = 512
"""Tokens that a row holds."""


def passes(session: Session, count: int, rounds: int, clock: Clock) -> list[list[object]]:
    """For each depth what a pass costs of which all is drawn as drafted, and one of which nothing is.

    Each in milliseconds until the model has computed it, and in all; and in plain steps.
    """
    texts = _texts(count, HELD + rounds * (1 + 2 * sum(1 + depth for depth in DEPTHS)) + 2 * max(DEPTHS))
    session.loaded.model.follow({index + 1: text.tolist() for index, text in enumerate(texts)})
    batch = session.groups.new_batch()
    batch.join(_rows(session, texts))

    def step() -> float:
        batch.step()
        return clock()

    kinds: dict[Any, Callable[[], float]] = {0: step}
    for depth, right in product(DEPTHS, (True, False)):
        kinds[depth, right] = partial(_verify, batch, texts, depth, right=right, clock=clock)
    found = _measured(kinds, rounds, clock)
    plain = found[0][1]
    told: list[list[object]] = [[count, 0, "", 1e3 * plain, 1.0, "", 1e3 * plain, 1.0]]
    for depth in DEPTHS:
        figures: list[object] = [count, depth]
        for right in (True, False):
            computed, taken = found[depth, right]
            figures += [1e3 * computed, 1e3 * taken, taken / plain]
        told.append(figures)
    return told


def columns(session: Session, count: int, rounds: int, clock: Clock) -> list[list[object]]:
    """Plain steps of the model in a batch whose rows end in one column, in several, and with mlx-lm's batch cache."""
    told: list[list[object]] = []
    model = session.loaded.model.model
    inputs = mx.array([[SIZE + index] for index in range(count)])
    for held in (HELD, 4 * HELD):
        one = prefilled(session, _texts(1, held)[0])
        each = [[copied(cache) for cache in one] for _ in range(count)]
        level = [merged(layer) for layer in zip(*each, strict=True)]
        ragged = [merged(layer) for layer in zip(*each, strict=True)]
        back = list(range(count))
        for cache in ragged:
            if hasattr(cache, "rewind"):
                cache.rewind(back)
        theirs = [layer[0].merge([copied(cache) for cache in layer]) for layer in zip(*each, strict=True)]
        batches = {"level": level, "in unlike columns": ragged, "mlx-lm's cache": theirs}

        def step(caches: list[Any]) -> float:
            mx.eval(model(inputs, cache=caches), [cache.state for cache in caches])
            return clock()

        steps = {name: partial(step, caches) for name, caches in batches.items()}
        found = _measured(steps, rounds, clock)
        for name, (taken, _) in found.items():
            told.append([name, count, held, 1e3 * taken, taken / found["level"][0]])
    return told


def memory(session: Session, count: int) -> list[list[object]]:
    """What a pass holds at its peak beyond what a plain step does, in MiB, and what it is projected to."""
    depths = [*DEPTHS, session.speculating.depths.options[-1]]
    texts = _texts(count, HELD + 4 * sum(depths) + 2 * max(depths))
    session.loaded.model.follow({index + 1: text.tolist() for index, text in enumerate(texts)})
    batch = session.groups.new_batch()
    batch.join(_rows(session, texts))

    def peak(run: Callable[[], object]) -> int:
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        run()
        return mx.get_peak_memory() - before

    peak(batch.step)
    told: list[list[object]] = []
    for depth in depths:
        plain = peak(batch.step)
        most = max(
            peak(partial(_verify, batch, texts, depth, right=right, clock=lambda: 0.0)) for right in (True, False)
        )
        projected = session.speculating.bytes_of(count, depth)
        told.append([count, depth, *(part / (1 << 20) for part in (plain, most, most - plain, projected))])
    return told


def _texts(count: int, tokens: int) -> list[NDArray[np.int32]]:
    """For each row the tokens of a script of its own."""
    rng = np.random.default_rng(5)
    return [((1 + index) * SIZE + rng.integers(0, SIZE, tokens)).astype(np.int32) for index in range(count)]


def _rows(session: Session, texts: Sequence[NDArray[np.int32]]) -> list[Row]:
    # One row's keys serve all: it is scripted what comes next.
    caches = prefilled(session, texts[0][:HELD])
    return [row(session, text[: HELD + 1], caches) for text in texts]


def _verify(batch: DecodeBatch, texts: Sequence[NDArray[np.int32]], depth: int, *, right: bool, clock: Clock) -> float:
    """When the model had computed the pass; back once its tokens are drawn and the caches cut."""
    batch.collect()
    drafts: list[list[int]] = []
    for one, text in zip(batch.rows, texts, strict=True):
        coming = text[one.covered + 1 : one.covered + 1 + depth]
        drafts.append((coming if right else coming * 0).tolist())
    verification = batch.verify(drafts)
    computed = clock()
    while verification.next():
        pass
    verification.close()
    batch.settle()
    return computed


def _measured(kinds: Mapping[Any, Callable[[], float]], rounds: int, clock: Clock) -> dict[Any, tuple[float, float]]:
    """Seconds of each at its quickest, until what it returns and in all; they take turns."""
    found: dict[Any, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, run in kinds.items():
            started = clock()
            part = run() - started
            found[name] = min((clock() - started, part), found.get(name, (math.inf, 0.0)))
    return {name: (part, taken) for name, (taken, part) in found.items()}
