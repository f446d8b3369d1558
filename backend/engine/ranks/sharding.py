"""The shard of a model that one rank has: by mlx-lm's own `shard` (tensor parallel) or `pipeline`."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import mlx.core as mx

from backend.core.errors import ModelLoadFailed

Way = Literal["tensor", "pipeline"]
# What must be divided, as config.json names it.
_DIVIDED = ("num_attention_heads", "num_key_value_heads")


def way_of(model: Any, settings: Mapping[str, Any], asked: str, size: int) -> Way:
    """How this model is divided among so many ranks.

    Args:
        asked: `auto` takes tensor parallel where the model and its heads allow it, else a pipeline.

    Raises:
        ModelLoadFailed: It cannot be divided so; says why.
    """
    refusals = {"tensor": _no_tensor(model, settings, size), "pipeline": _no_pipeline(model, size)}
    if asked == "auto":
        asked = "tensor" if not refusals["tensor"] else "pipeline"
        if refusals[asked]:
            raise ModelLoadFailed(f"ranks: neither {refusals['tensor']}; nor {refusals['pipeline']}")
    if refusals[asked]:
        raise ModelLoadFailed(f"ranks: {refusals[asked]}")
    return "tensor" if asked == "tensor" else "pipeline"


def divide(model: Any, way: Way, group: Any) -> None:
    """Leave this rank's shard of a model whose weights are not read yet. Raises whatever mlx-lm raises."""
    if way == "tensor":
        model.shard(group)
    else:
        model.model.pipeline(group)


def _no_tensor(model: Any, settings: Mapping[str, Any], size: int) -> str:
    if not hasattr(model, "shard"):
        return f"tensor: mlx-lm does not divide {settings.get('model_type')} by its heads"
    for name, value in _sizes(settings):
        if value % size:
            return f"tensor: {name} is {value}, which {size} ranks do not divide"
    return ""


def _no_pipeline(model: Any, size: int) -> str:
    inner = getattr(model, "model", None)
    if not hasattr(inner, "pipeline"):
        return "pipeline: mlx-lm does not divide this architecture by its layers"
    layers = len(getattr(inner, "layers", ()))
    return f"pipeline: {layers} layers are fewer than {size} ranks" if layers < size else ""


def _sizes(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    inner = settings.get("text_config")
    for part in (settings, inner if isinstance(inner, Mapping) else {}):
        for name in _DIVIDED:
            if isinstance(value := part.get(name), int):
                yield name, value


def join_group(backend: str) -> Any:
    """MLX's group of all ranks. Blocks, with the interpreter's lock held, until all of them have come.

    Raises:
        RuntimeError: This MLX has no such backend.
    """
    name = "jaccl" if backend == "jaccl-ring" else backend
    if not mx.distributed.is_available(name):
        raise RuntimeError(f"this MLX has no backend {name!r}")
    return mx.distributed.init(strict=True, backend=name)


def needle(group: Any) -> str:
    """What is wrong with collectives between these ranks; empty where nothing is.

    Sums and gathers of numbers that every rank can work out, of the sizes of a token's and a chunk's activations: each
    must be exact.
    """
    size, rank = group.size(), group.rank()
    for count in (1, 1000, 1 << 16, (1 << 20) + 3):
        place = mx.arange(count) % 1021
        total = mx.distributed.all_sum((place + rank).astype(mx.float32), group=group)
        expected = (size * place + sum(range(size))).astype(mx.float32)
        if not mx.array_equal(total, expected).item():
            return f"a sum of {count} numbers over {size} ranks is wrong"
        gathered = mx.distributed.all_gather((place + rank).astype(mx.float32)[None], group=group)
        if not mx.array_equal(gathered, (place[None] + mx.arange(size)[:, None]).astype(mx.float32)).item():
            return f"{count} numbers gathered from {size} ranks are wrong"
    return ""
