"""From a model's name to a model that has shown that it can run.

Importing this package imports neither MLX nor mlx_lm: finding and downloading files is another thread's work
than loading them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.config import ModelConfig
from backend.engine.loading.files import ModelFiles, open_files
from backend.engine.loading.kv_cost import KVCost
from backend.engine.loading.loaded import LoadedModel
from backend.engine.loading.locate import locate_model
from backend.engine.loading.progress import Progress

if TYPE_CHECKING:
    from backend.engine.loading.sharding import Sharding

__all__ = ["KVCost", "LoadedModel", "ModelFiles", "Progress", "load_model", "locate_model", "open_files"]


def load_model(
    config: ModelConfig,
    files: ModelFiles | None = None,
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    known: LoadedModel | None = None,
    sharding: "Sharding | None" = None,
) -> LoadedModel:
    """Load, adapt and try out a model. Engine thread only.

    Args:
        files: What `open_files` found; None opens them first, by network if it must.
        progress: Told bytes done and in all, from this thread.
        cancelled: Asked between steps; true ends the load.
        known: What a load of these very files has found in this process: it is not tried out again.
        sharding: How this rank's shard is made, where several load the model together.

    Raises:
        ModelLoadFailed: One line that names the file or field; what was loaded until then is dropped.
    """
    from backend.engine.loading.model import load  # imports MLX

    files = files or open_files(config, progress=progress, cancelled=cancelled)
    return load(config, files, progress=progress, cancelled=cancelled, known=known, sharding=sharding)
