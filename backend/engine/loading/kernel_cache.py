"""Where MLX keeps the CUDA kernels that it has compiled: with the user's other caches, to be there after a restart.

MLX takes a directory under the system's temporary one, which a reboot empties and in which anybody could have put
other code. Compiling for one model takes up to a minute.
"""

import os
from collections.abc import Mapping, MutableMapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "MLX_PTX_CACHE_DIR"


def keep_kernels(info: Mapping[str, Any], environment: MutableMapping[str, str]) -> None:
    """Name the directory in `environment`, unless it has one. Before the first kernel of the process is compiled.

    Args:
        info: `mx.device_info()`. Only CUDA's architectures begin with `sm_`; what was compiled for one does not run
            on another, and MLX's file names do not tell them apart.
    """
    architecture = str(info.get("architecture", ""))
    if VARIABLE in environment or not architecture.startswith("sm_"):
        return
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "/nonexistent", ".cache"))
    if any(os.access(directory, os.W_OK) for directory in (base, os.path.dirname(base))):
        environment[VARIABLE] = str(Path(base, "mlx-worker", f"kernels-{version('mlx')}-{architecture}"))
