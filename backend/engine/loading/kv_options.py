"""What a load asks of the form of keys and values, checked against itself and against a model's layers."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.loading.kv_cost import leaves
from backend.engine.quantized.conversion import plain_layers
from backend.engine.quantized.kv_format import KVFormat

BITS = (4, 8)
GROUP_SIZES = (32, 64)


def check_kv_options(config: ModelConfig) -> None:
    """Raise ModelLoadFailed, with the name of the option, for values that there are not or that do not go together."""
    engine, at_rest = config.engine, config.cache.kv_bits
    for name, bits in (("kv_bits", engine.kv_bits), ("cache_kv_bits", at_rest)):
        if bits is not None and bits not in BITS:
            raise ModelLoadFailed(f"{name}: must be 4 or 8, is {bits}")
    if engine.kv_group_size not in GROUP_SIZES:
        raise ModelLoadFailed(f"kv_group_size: must be 32 or 64, is {engine.kv_group_size}")
    if engine.quantized_kv_start < 0:
        raise ModelLoadFailed(f"quantized_kv_start: must not be negative, is {engine.quantized_kv_start}")
    if engine.kv_bits is not None and config.max_kv_size is not None:
        raise ModelLoadFailed("kv_bits: does not go with max_kv_size, for mlx-lm's rotating caches hold no codes")
    if engine.kv_bits is not None and at_rest is not None:
        raise ModelLoadFailed("cache_kv_bits: does not go with kv_bits, for codes would be made of codes")


def kv_format(config: ModelConfig) -> KVFormat | None:
    """How rows hold keys and values; None for the numbers themselves."""
    engine = config.engine
    if engine.kv_bits is None:
        return None
    return KVFormat(engine.kv_bits, engine.kv_group_size, engine.quantized_kv_start)


def stored_format(config: ModelConfig) -> KVFormat | None:
    """How the prompt cache holds those of rows that hold numbers; None for as the rows do."""
    bits = config.cache.kv_bits
    return None if bits is None else KVFormat(bits, config.engine.kv_group_size)


def unquantisable(caches: Sequence[Any], wanted: KVFormat) -> str:
    """Why these layers, which hold some tokens, cannot be made codes; empty if those that hold every token can."""
    plain = list(plain_layers(caches))
    if not plain:
        names = ", ".join(sorted({type(cache).__name__ for cache in leaves(caches)}))
        return f"no layer of the model keeps every token in a plain KV cache, they are {names}"
    for cache in plain:
        widths = {array.shape[-1] for array in (cache.keys, cache.values) if isinstance(array, mx.array)}
        uneven = sorted(width for width in widths if width % wanted.group_size)
        if uneven:
            return f"kv_group_size {wanted.group_size} does not divide a head's size of {uneven[0]}"
        if 0 in widths:
            return "it keeps keys without values"
    return ""
