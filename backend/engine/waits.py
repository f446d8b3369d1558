"""The one place where the engine waits for the device and reads what it computed.

MLX reports a failed step once, at the first wait, and forgets it. numpy swallows exceptions of the buffer protocol and
asks again, so an array that was not waited for reads as zeros or garbage where it should raise.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

# What a wait is; a test may put another in its place, which fails as a device does.
evaluate: Callable[..., None] = mx.eval


def wait(*arrays: Any) -> None:
    """Wait for arrays, or trees of them. Raises what the device reports."""
    evaluate(*arrays)


def on_host(array: mx.array) -> NDArray[Any]:
    """The array's numbers once they are known, without a copy where they are: only to be read."""
    wait(array)
    return np.asarray(array)
