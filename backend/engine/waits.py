"""The one place where the engine waits for the device and reads what it computed.

MLX reports a failed step once, at the first wait, and forgets it. numpy swallows exceptions of the buffer protocol and
asks again, so an array that was not waited for reads as zeros or garbage where it should raise.

Whoever waits first hears of a failure, whosever it was. So what others have on the device is settled before, each by
its own owner (`Decoding.settle`), and an error at a wait is that of what is waited for.
"""

import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline

log = logging.getLogger(__name__)

# What a wait is; a test may put another in its place, which fails as a device does.
evaluate: Callable[..., None] = mx.eval


# What puts work on the device; likewise.
put: Callable[..., None] = mx.async_eval


def start(*arrays: Any) -> None:
    """Put arrays, or trees of them, on the device. Raises what the device reports at once."""
    put(*arrays)


def wait(*arrays: Any) -> None:
    """Wait for arrays, or trees of them. Raises what the device reports."""
    evaluate(*arrays)


def drain() -> None:
    """Let the device finish what was lost, and forget what it reports of that: the next wait is somebody else's."""
    try:
        mx.synchronize()
    except Exception as error:
        log.debug(logline("drained"), exc_info=error)


def on_host(array: mx.array) -> NDArray[Any]:
    """The array's numbers once they are known, without a copy where they are: only to be read."""
    wait(array)
    return known(array)


def known(array: mx.array) -> NDArray[Any]:
    """The same of an array that was waited for, which raised nothing."""
    return np.asarray(array)
