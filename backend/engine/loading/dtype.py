"""The floating type that a model computes in."""

import logging
from collections.abc import Iterable, Sequence

import mlx.core as mx

from backend.core.logline import logline
from backend.engine.loading.machine_memory import machine_memory

log = logging.getLogger(__name__)

_HALF = (mx.float16, mx.bfloat16)
# Of the machine's memory: what weights may take after a cast that nobody asked for.
_MEMORY_SHARE = 0.5


def main_dtype(parameters: Iterable[mx.array]) -> str:
    """The floating type that most parameter bytes have, such as `float16`; empty if none has one."""
    sizes: dict[str, int] = {}
    for array in parameters:
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).removeprefix("mlx.core.")
            sizes[name] = sizes.get(name, 0) + array.nbytes
    return max(sizes, key=lambda name: sizes[name]) if sizes else ""


def preferred_dtype(parameters: Sequence[mx.array], *, memory_bytes: int | None = None) -> str:
    """`float32` where a CPU would compute in a half-precision type; empty keeps the checkpoint's.

    On a CPU, BLAS has float32 only, and MLX's own half-precision loops take 20 to 40 times longer (measured by
    `benchmarks/blas.py`), those of quantised weights too. The values of the weights stay the same.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return ""
    half = sum(array.nbytes for array in parameters if array.dtype in _HALF)
    if not half:
        return ""
    after = half + sum(array.nbytes for array in parameters)
    memory = machine_memory() if memory_bytes is None else memory_bytes
    if after > memory * _MEMORY_SHARE:
        log.warning(logline("dtype_kept", dtype=main_dtype(parameters), reason="float32 weights would not fit"))
        return ""
    log.info(logline("dtype_adapted", was=main_dtype(parameters), now="float32", reason="faster on a CPU"))
    return "float32"
