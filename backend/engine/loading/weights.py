"""A model's module with its weights, as mlx-lm reads them. Engine thread only."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import load_adapters
from mlx_lm.utils import load_model as load_checkpoint

from backend.config import ModelConfig
from backend.engine.loading.dtype import preferred_dtype
from backend.engine.loading.failures import check_cancelled, guarded
from backend.engine.loading.files import ModelFiles
from backend.engine.loading.progress import Progress, ProgressLog
from backend.engine.loading.sharding import Sharding

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_EVAL_BYTES = 256 << 20


def read_model(
    config: ModelConfig,
    files: ModelFiles,
    *,
    progress: Progress | None,
    cancelled: Callable[[], bool],
    sharding: Sharding | None,
) -> tuple[Any, Mapping[str, Any]]:
    """The module of these files, its weights read, and its settings: config.json with what mlx-lm adds.

    Raises:
        ModelLoadFailed: One line that names the file, or the load was cancelled.
    """
    directory, adapter = files.directory, files.adapter
    check_cancelled(cancelled)
    model, settings = guarded(
        made_of(directory),
        lambda: load_checkpoint(directory, lazy=True, trust_remote_code=config.trust_remote_code),
    )
    if adapter is not None:
        guarded(str(adapter), lambda: load_adapters(model, str(adapter)).eval())
    if sharding is not None:
        guarded(made_of(directory), lambda: sharding.divide(model, settings))
    wanted = config.dtype or preferred_dtype(parameters(model))
    if wanted:
        _cast(model, DTYPES[wanted])
    reading = ProgressLog("weights", directory.name, progress, every_s=config.engine.progress_s)
    _evaluate(model, directory, reading, cancelled)
    return model, settings


def made_of(directory: Path) -> str:
    """What is at fault where Python's own words name no file."""
    return f"{directory / 'config.json'}, with the weights beside it"


def set_float32(model: Any) -> None:
    """Have all parameters in float32, now."""
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())


def parameters(model: Any) -> list[mx.array]:
    """All of them."""
    return cast("list[mx.array]", [array for _, array in tree_flatten(model.parameters())])


def weight_bytes(model: Any) -> int:
    """Bytes of all parameters."""
    return sum(array.nbytes for array in parameters(model))


def _cast(model: Any, dtype: mx.Dtype) -> None:
    # Some architectures keep a few parameters (routers, state-space decays) in float32.
    wanted: Callable[[str], bool] = getattr(model, "cast_predicate", lambda _: True)

    def recast(path: str, value: mx.array) -> mx.array:
        return value.astype(dtype) if wanted(path) and mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map_with_path(recast, model.parameters()))


def _evaluate(model: Any, directory: Path, progress: ProgressLog, cancelled: Callable[[], bool]) -> None:
    """Read all weights now: a lazy array would read whatever the file holds later."""
    arrays = parameters(model)
    total = sum(array.nbytes for array in arrays)
    done = pending = 0
    group: list[mx.array] = []
    for array in arrays:
        group.append(array)
        pending += array.nbytes
        if pending >= _EVAL_BYTES:
            guarded(str(directory), lambda group=group: mx.eval(group))
            done, pending, group = done + pending, 0, []
            progress.report(done, total)
            check_cancelled(cancelled)
    guarded(str(directory), lambda: mx.eval(model.parameters()))
    progress.report(total, total)
    progress.finish()
