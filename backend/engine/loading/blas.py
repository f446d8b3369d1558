"""The choice of the BLAS that MLX computes with on a CPU of Linux.

MLX's CPU wheel for Linux carries reference BLAS. A library that is loaded before it, with its symbols global,
answers for those names instead (ELF symbol interposition, ld.so(8)); OpenBLAS is 30 to 60 times faster.
Elsewhere (macOS, GPUs) there is nothing to choose.
"""

import ctypes
import importlib
import logging
import os
import resource
import sys
from collections.abc import Callable

from backend.core.logline import logline
from backend.engine.loading.kernel_cache import allow_many_shapes

log = logging.getLogger(__name__)

REFERENCE = "reference"
# Debian and Fedora first, then what a compiler would link.
_LIBRARIES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")


_running: list[str] = []


class BlasNotFound(Exception):
    """The BLAS that the configuration names cannot be loaded; the message says why."""


def load_blas(option: str = "auto") -> str:
    """Choose the BLAS, then import MLX and mlx-lm, and say what runs. Before any other import of MLX.

    The first choice of a process stands: `reference` later on means whatever was loaded.

    Args:
        option: `auto` takes OpenBLAS where it is installed, `reference` what the wheel carries, anything else is
            the path or name of a library.

    Returns:
        For the log and Info, such as `OpenBLAS 0.3.21 (2 threads)` or `reference`.

    Raises:
        BlasNotFound: A named library cannot be loaded.
    """
    if _running and option == REFERENCE:
        return _running[0]
    if "mlx.core" in sys.modules and option != REFERENCE and sys.platform == "linux":
        log.warning(logline("blas_too_late", reason="MLX is already loaded"))
    name = _choose(option)
    _running[:] = [name]
    _import_mlx()
    log.info(logline("blas", running=name))
    return name


def adds_in_order() -> bool:
    """Whether a row of a product is the same to the bit in whatever company: so adds what MLX's wheel carries."""
    import mlx.core as mx

    return _running == [REFERENCE] and mx.default_device() == mx.Device(mx.cpu)


def _choose(option: str) -> str:
    if sys.platform != "linux":
        return "Accelerate" if sys.platform == "darwin" else REFERENCE
    if option == REFERENCE:
        return REFERENCE
    if option != "auto":
        try:
            return _described(ctypes.CDLL(option, mode=ctypes.RTLD_GLOBAL), option)
        except OSError as error:
            raise BlasNotFound(f"blas: cannot load {option}: {error}") from None
    for name in _LIBRARIES:
        try:
            return _described(ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL), name)
        except OSError:
            continue
    return REFERENCE


def _described(library: ctypes.CDLL, fallback: str) -> str:
    """OpenBLAS tells its version and threads; another library is known by its file."""
    try:
        config: Callable[[], bytes] = library.openblas_get_config
        library.openblas_get_config.restype = ctypes.c_char_p
        words = config().decode("ascii", "replace").split()
        return f"{' '.join(words[:2])} ({library.openblas_get_num_threads()} threads)"
    except AttributeError:
        return fallback


def _import_mlx() -> None:
    """Import mlx_lm without its side effect: it sets the limit of open files to 2,048, hard limit 4,096."""
    allow_many_shapes(os.environ)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    original, resource.setrlimit = resource.setrlimit, lambda *_: None
    try:
        importlib.import_module("mlx_lm")
    finally:
        resource.setrlimit = original
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
