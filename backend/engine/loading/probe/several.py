"""One pass over several tokens of every row, of which each keeps its first ones, against as many single steps."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from backend.engine.kv.going_back import Pass, can_go_back
from backend.engine.kv.merging import alone, merged
from backend.engine.loading.blas import adds_in_order
from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.loading.probe.company import FLOAT32_TOLERANCE, HALF, differences
from backend.engine.loading.probe.context import Context, Model, NewCache, evaluate, read, token

_WIDTH = 3
_AFTER = 1
"""Single steps behind each pass, from what it left."""
# What each of three rows keeps of the first pass and of the second; the last two passes are those of a single row.
_KEPT = ((2, 3, 1), (3, 3, 3))
_STEPS = sum(max(kept) for kept in _KEPT) + _AFTER * len(_KEPT)


def cannot_speculate(model: Model, new_cache: NewCache, contexts: Sequence[Context], *, batchable: bool) -> str:
    """Why a step must not look at several tokens of this model; empty where it may.

    A pass must give what single steps give: to the bit where the arithmetic is that of single rows whatever their
    number, within roundings elsewhere. Some thirty passes over one token and six over a few.
    """
    try:
        rows = [read(model, new_cache, context) for context in contexts]
        if not can_go_back([alone(cache) for cache in rows[0]]):
            return "a layer's cache cannot go back"
        tried = contexts if batchable else contexts[:1]
        by_step = [_by_step(model, new_cache, context) for context in tried]
        apart = _apart(model, new_cache, contexts[:1], by_step)
        if batchable:
            apart = max(apart, _apart(model, new_cache, contexts, by_step))
    except FOREIGN as error:
        return f"several tokens at a time: {one_line(error)}"
    allowed = 0.0 if adds_in_order() else HALF.get(by_step[0][0].dtype, FLOAT32_TOLERANCE)
    return "" if apart <= allowed else f"several tokens at a time give other logits, by {apart:.2g} of their range"


def _by_step(model: Model, new_cache: NewCache, context: Context) -> list[mx.array]:
    """Logits `[vocab]` of a row alone, step by step."""
    caches = [alone(cache) for cache in read(model, new_cache, context)]
    return [_logits(model, caches, [[token(context.seed, n)]])[0, 0] for n in range(_STEPS)]


def _apart(
    model: Model, new_cache: NewCache, contexts: Sequence[Context], by_step: Sequence[Sequence[mx.array]]
) -> float:
    """How far passes are from single steps, as a fraction of the logits' range."""
    caches = _batch(model, new_cache, contexts)
    place, worst = [0] * len(contexts), 0.0

    def fed(index: int, count: int) -> list[int]:
        return [token(contexts[index].seed, place[index] + n) for n in range(count)]

    def compare(index: int, ours: mx.array) -> None:
        nonlocal worst
        theirs = mx.stack(list(by_step[index][place[index] : place[index] + len(ours)]))
        worst = max(worst, *differences(ours, theirs))
        place[index] += len(ours)

    for keeping in _KEPT:
        kept = keeping[: len(contexts)]
        # Behind what a row keeps comes what it was not to be fed: another row's tokens.
        tokens = [fed(index, n) + [1] * (_WIDTH - n) for index, n in enumerate(kept)]
        run = Pass(model, caches, tokens)
        mx.eval(run.logits)
        run.keep(kept)
        evaluate(caches)
        for index, n in enumerate(kept):
            compare(index, run.logits[index, :n])
        for _ in range(_AFTER):
            logits = _logits(model, caches, [fed(index, 1) for index in range(len(contexts))])
            for index in range(len(contexts)):
                compare(index, logits[index])
    return worst


def _batch(model: Model, new_cache: NewCache, contexts: Sequence[Context]) -> list[Any]:
    rows = [read(model, new_cache, context) for context in contexts]
    if len(rows) == 1:
        return [alone(cache) for cache in rows[0]]
    return [merged(layer) for layer in zip(*rows, strict=True)]


def _logits(model: Model, caches: list[Any], tokens: list[list[int]]) -> mx.array:
    """`[rows, n, vocab]`, evaluated with the caches."""
    logits = model(mx.array(tokens), cache=caches)
    mx.eval(logits, [cache.state for cache in caches])
    return logits
