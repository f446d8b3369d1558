"""Try a model out before it serves: a forward pass, a sampled token, and rows that decode together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from backend.engine.loading.failures import one_line
from backend.engine.loading.kv_cost import KVCost, measure

# Lengths differ, so that a merge must pad.
_LONG, _SHORT = 6, 3
# Batched and single logits differ by roundings (1e-6 in float32, 1e-2 in bfloat16, of the logits' range).
# Missing padding or positions differ by far more.
_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe found.

    Attributes:
        vocab_size: Width of the logits.
        serial_reason: Why rows cannot decode together; empty when they can.
    """

    vocab_size: int
    serial_reason: str
    kv_cost: KVCost


class ProbeFailed(Exception):
    """The model cannot run as it is; the message says why."""


def probe(model: Callable[..., mx.array], new_cache: Callable[[], list[Any]]) -> ProbeResult:
    """Run the model on a few tokens, alone and as a batch.

    Raises:
        ProbeFailed: The forward pass raises or gives no usable logits.
    """
    try:
        logits, cost = _forward(model, new_cache)
    # Kernels report a missing dtype as ValueError or RuntimeError, models their own errors as they like.
    except Exception as error:  # noqa: BLE001
        raise ProbeFailed(one_line(error)) from None
    return ProbeResult(int(logits.shape[-1]), _serial_reason(model, new_cache), cost)


def _tokens(count: int) -> mx.array:
    # Small ids exist in every vocabulary.
    return mx.arange(1, count + 1)[None]


def _forward(model: Callable[..., mx.array], new_cache: Callable[[], list[Any]]) -> tuple[mx.array, KVCost]:
    caches = new_cache()
    logits = model(_tokens(_LONG), cache=caches)
    if logits.ndim != 3 or logits.shape[:2] != (1, _LONG):
        raise ProbeFailed(f"logits have shape {tuple(logits.shape)}, expected (1, {_LONG}, vocabulary)")
    row = logits[:, -1].astype(mx.float32)
    # A categorical draw fails where a greedy one does not see it: a broken random state, odd dtypes.
    drawn = mx.random.categorical(row, key=mx.random.key(0))
    step = model(drawn[:, None], cache=caches)
    mx.eval(step, [c.state for c in caches])
    if mx.any(mx.isnan(row)).item():
        raise ProbeFailed("the logits are not numbers (NaN)")
    return logits, measure(caches)


def _serial_reason(model: Callable[..., mx.array], new_cache: Callable[[], list[Any]]) -> str:
    try:
        return _compare(model, new_cache)
    # A cache class without `merge`, a model that takes one row only: whatever it is, one row works.
    except Exception as error:  # noqa: BLE001
        return f"caches cannot be batched: {one_line(error)}"


def _compare(model: Callable[..., mx.array], new_cache: Callable[[], list[Any]]) -> str:
    """Join two rows, step, join a third, drop the first: the other two must decode as they do alone."""
    stepped, fresh = (_prefilled(model, new_cache, length) for length in (_SHORT, _LONG))
    model(mx.array([[1]]), cache=stepped)
    alone = mx.concatenate([model(mx.array([[1]]), cache=row)[:, -1] for row in (stepped, fresh)])

    batch = _merged([_prefilled(model, new_cache, length) for length in (_LONG, _SHORT)])
    model(mx.array([[1], [1]]), cache=batch)
    for mine, theirs in zip(batch, _merged([_prefilled(model, new_cache, _LONG)]), strict=True):
        mine.extend(theirs)
    for cache in batch:
        cache.filter([1, 2])
    together = model(mx.array([[1], [1]]), cache=batch)[:, -1]
    mx.eval(alone, together, [cache.extract(0).state for cache in batch])

    alone, together = alone.astype(mx.float32), together.astype(mx.float32)
    scale = mx.maximum(mx.max(alone) - mx.min(alone), 1e-6)
    worst = float((mx.max(mx.abs(together - alone)) / scale).item())  # pyright: ignore[reportArgumentType]
    # A NaN fails this comparison as well.
    if worst <= _TOLERANCE:
        return ""
    return f"rows decode differently together: logits differ by {worst:.2g} of their range"


def _prefilled(model: Callable[..., mx.array], new_cache: Callable[[], list[Any]], length: int) -> list[Any]:
    caches = new_cache()
    model(_tokens(length), cache=caches)
    mx.eval([c.state for c in caches])
    return caches


def _merged(rows: list[list[Any]]) -> list[Any]:
    return [layers[0].merge(list(layers)) for layers in zip(*rows, strict=True)]
