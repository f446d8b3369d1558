"""The trial of a model before it serves: does it run, may rows decode together, what may the prompt cache keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import mlx.core as mx

from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.loading.kv_cost import KVCost, measure
from backend.engine.loading.probe.company import (
    FIRST,
    FLOAT32_TOLERANCE,
    HALF,
    LATE,
    MOST_IN_PIECES,
    Compared,
    compare,
    decode,
    pieces,
)
from backend.engine.loading.probe.context import Context, Model, NewCache, fillable, read
from backend.engine.loading.probe.keeping import restored_differs, unknown_layers
from backend.engine.loading.probe.reach import NO_REACH, Reach
from backend.engine.loading.probe.several import cannot_speculate

_LONG, _SHORT, _LATE = 24, 5, 11
# Beyond a window or a selection: apart by no multiple of any block, so that padding shifts the blocks.
_LONG_BEYOND, _SHORT_BEYOND = 37, 10
# What made-up entries may take: a few rows of them are held at once, beside the weights.
_MOST_TOKENS = 16_384
_LEAST_BYTES, _MOST_BYTES, _WEIGHT_SHARE = 128 << 20, 512 << 20, 64
# Tokens of one pass that is compared with as many.
_PIECE = 4


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe found.

    Attributes:
        vocab_size: Width of the logits.
        serial_reason: Why rows cannot decode together; empty when they can.
        kv_cost: What a row's caches weigh.
        uncached_reason: Why the prompt cache can keep nothing of this model; empty when it can.
        kept_whole: Layer classes that the prompt cache does not know, but may keep as copies of their attributes.
        speculation_reason: Why a step may look at one token of a row only; empty where at several.
    """

    vocab_size: int
    serial_reason: str
    kv_cost: KVCost
    uncached_reason: str
    kept_whole: frozenset[type]
    speculation_reason: str = ""


class ProbeFailed(Exception):
    """The model cannot run as it is; the message says why."""


def probe(
    model: Model, new_cache: NewCache, *, reach: Reach = NO_REACH, weight_bytes: int = 0, speculates: bool = False
) -> ProbeResult:
    """Run the model on a few tokens, alone and as a batch. About 30 passes over one token and ten over a few.

    Lengths beyond `reach` cost memory and no time to speak of: they are made of entries that no model computed.

    Args:
        weight_bytes: Of the model; the larger it is, the longer the rows that are tried.
        speculates: Whether steps are to look at several tokens, where they may; some 40 passes more.

    Raises:
        ProbeFailed: The forward pass raises or gives no usable logits.
    """
    try:
        logits, caches = _forward(model, new_cache)
        cost = measure(read(model, new_cache, Context(_SHORT)), caches, apart=_LONG - _SHORT)
    # Kernels report a missing dtype as ValueError or RuntimeError, models their own errors as they like.
    except FOREIGN as error:
        raise ProbeFailed(one_line(error)) from None
    most = _most_tokens(caches, cost, weight_bytes)
    unknown = unknown_layers(caches)
    uncached = _uncached_reason(model, new_cache, reach, most, unknown)
    serial = _serial_reason(model, new_cache, reach, most)
    contexts = _contexts(reach, most, seed=0)
    return ProbeResult(
        vocab_size=int(logits.shape[-1]),
        serial_reason=serial,
        kv_cost=cost,
        uncached_reason=uncached,
        kept_whole=frozenset() if uncached else unknown,
        speculation_reason=cannot_speculate(model, new_cache, contexts, batchable=not serial) if speculates else "",
    )


def first_pass(model: Model, new_cache: NewCache) -> list[Any]:
    """The caches of one row after a few tokens. Raises ProbeFailed as `probe` does."""
    try:
        return _forward(model, new_cache)[1]
    except FOREIGN as error:
        raise ProbeFailed(one_line(error)) from None


def _forward(model: Model, new_cache: NewCache) -> tuple[mx.array, list[Any]]:
    caches = new_cache()
    logits = model(mx.array([[place % 13 + 1 for place in range(_LONG)]]), cache=caches)
    if logits.ndim != 3 or logits.shape[:2] != (1, _LONG):
        raise ProbeFailed(f"logits have shape {tuple(logits.shape)}, expected (1, {_LONG}, vocabulary)")
    row = logits[:, -1].astype(mx.float32)
    mx.eval(row, [c.state for c in caches])
    if mx.any(mx.isnan(row)).item():
        raise ProbeFailed("the logits are not numbers (NaN)")
    # A categorical draw fails where a greedy one does not see it: a broken random state, odd dtypes.
    drawn = mx.random.categorical(row, key=mx.random.key(0))
    mx.eval(drawn)
    return logits, caches


def _most_tokens(caches: Sequence[Any], cost: KVCost, weight_bytes: int) -> int:
    """Made-up tokens that a row may have; 0 where a layer cannot take them."""
    if not fillable(caches):
        return 0
    allowed = min(_MOST_BYTES, max(_LEAST_BYTES, weight_bytes // _WEIGHT_SHARE))
    per_token = cost.bytes_for(_MOST_TOKENS) // _MOST_TOKENS
    return min(_MOST_TOKENS, allowed // max(per_token, 1))


def _serial_reason(model: Model, new_cache: NewCache, reach: Reach, most: int) -> str:
    try:
        compared = compare(model, new_cache, _contexts(reach, most, seed=0))
        if compared.together > compared.tolerance:
            # Once more with other tokens: roundings that decide a tie between two experts do not do so twice.
            again = compare(model, new_cache, _contexts(reach, most, seed=7))
            compared = min(compared, again, key=_excess)
    # A cache class without `merge`, a model that takes one row only: whatever it is, one row works.
    except FOREIGN as error:
        return f"caches cannot be batched: {one_line(error)}"
    if compared.together > compared.tolerance:
        return f"rows decode differently together: logits differ by {compared.together:.2g} of their range"
    if reach.selection + _LONG_BEYOND > most and reach.selection:
        return f"attention selects among more than {reach.selection} tokens, and rows that long could not be tried here"
    return ""


def _excess(compared: Compared) -> float:
    return compared.together / compared.tolerance


def _contexts(reach: Reach, most: int, *, seed: int) -> list[Context]:
    """A long row, a shorter one and a late one: within the reach, or the first two beyond it."""
    lengths = [length for length in (reach.window, reach.selection) if length and length + _LONG_BEYOND <= most]
    beyond = max(lengths, default=0)
    return [
        Context(_LONG, beyond + _LONG_BEYOND if beyond else 0, seed + 1),
        Context(_SHORT, beyond + _SHORT_BEYOND if beyond else 0, seed + 2),
        Context(_LATE, 0, seed + 3),
    ]


def _uncached_reason(model: Model, new_cache: NewCache, reach: Reach, most: int, unknown: frozenset[type]) -> str:
    try:
        apart = _pieces_apart(model, new_cache, _contexts(reach, most, seed=0))
        if apart > 1.0:
            apart = min(apart, _pieces_apart(model, new_cache, _contexts(reach, most, seed=7)))
    except FOREIGN as error:
        return f"a prompt cannot be read in pieces: {one_line(error)}"
    if not apart <= 1.0:
        return "a prompt that is read in other pieces gives other logits"
    return restored_differs(model, new_cache, unknown) if unknown else ""


def _pieces_apart(model: Model, new_cache: NewCache, contexts: Sequence[Context]) -> float:
    """How far one pass over several tokens is from as many over one, in units of what roundings may do."""
    worst = 0.0
    for context in (contexts[FIRST], contexts[LATE]):
        alone = decode(model, read(model, new_cache, context), context, _PIECE)
        apart = pieces(model, new_cache, context, alone)
        if alone.dtype in HALF:
            worst = max(worst, median(apart) / MOST_IN_PIECES)
        else:
            worst = max(worst, max(apart) / FLOAT32_TOLERANCE)
    return worst
