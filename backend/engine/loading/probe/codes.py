"""The trial of a model whose rows are to hold codes: with the very caches that it is going to serve with."""

from dataclasses import replace
from functools import partial

from mlx_lm.models.cache import KVCache

from backend.engine.loading.kv_cost import KVCost
from backend.engine.loading.kv_options import unquantisable
from backend.engine.loading.probe.context import Model, NewCache
from backend.engine.loading.probe.reach import NO_REACH, Reach
from backend.engine.loading.probe.trial import ProbeFailed, ProbeResult, first_pass, probe
from backend.engine.quantized.conversion import plain_layers, to_codes
from backend.engine.quantized.kv_format import KVFormat

# What foreign code says when it is given codes where it looks for numbers, and what that means.
_CAUSES = {
    "does not support attention sinks": "attention with sinks has no quantised form in mlx-lm",
    "[quantized_matmul] No implementation": "MLX has no product with codes in these shapes on this device",
}
_LATENT = "latent attention (MLA) computes keys and values from what is cached, which must be numbers"
_OWN_ATTENTION = "the model computes attention by itself, from keys that must be numbers"


class CodesRefused(Exception):
    """The model runs, but not with quantised keys and values; the message says why."""


def probe_with_codes(
    model: Model,
    new_cache: NewCache,
    kv: KVFormat,
    *,
    reach: Reach = NO_REACH,
    weight_bytes: int = 0,
    speculates: bool = False,
) -> ProbeResult:
    """As `probe`, of rows that hold `kv`; with a start, of both kinds of rows.

    Args:
        new_cache: Fresh caches of one row that hold numbers.

    Raises:
        ProbeFailed: The model does not run at all.
        CodesRefused: It does not with codes, or its answers would depend on chunks or on company.
    """
    caches = first_pass(model, new_cache)
    reason = unquantisable(caches, kv)
    if reason:
        raise CodesRefused(reason)
    tried = partial(probe, reach=reach, weight_bytes=weight_bytes, speculates=speculates)
    try:
        found = tried(model, lambda: to_codes(new_cache(), kv))
    except ProbeFailed as error:
        widths = {(cache.keys.shape[-1], cache.values.shape[-1]) for cache in plain_layers(caches)}
        latent = any(keys != values for keys, values in widths)
        raise CodesRefused(_LATENT if latent else _cause(str(error))) from None
    if not (kv.start or found.serial_reason or found.uncached_reason):
        return found
    plain = tried(model, new_cache)
    for ours, theirs in ((found.serial_reason, plain.serial_reason), (found.uncached_reason, plain.uncached_reason)):
        if ours and not theirs:
            raise CodesRefused(f"with codes, {ours}")
    return replace(
        found,
        serial_reason=found.serial_reason or plain.serial_reason,
        uncached_reason=found.uncached_reason or plain.uncached_reason,
        speculation_reason=found.speculation_reason or plain.speculation_reason,
        kv_cost=with_start(found.kv_cost, plain.kv_cost, kv.start),
    )


def with_start(codes: KVCost, plain: KVCost, start: int) -> KVCost:
    """The cost of rows that hold numbers below a length, in caches that grow by blocks and so somewhat beyond it."""
    return replace(codes, full_below=start + 2 * KVCache.step, full_per_token=plain.per_token) if start else codes


def _cause(reason: str) -> str:
    known = next((words for text, words in _CAUSES.items() if text in reason), None)
    # Of an argument that is no array MLX says at length what it takes.
    return known or f"{_OWN_ATTENTION}: {reason.partition(' The following argument types')[0]}"
