"""One pass through a model whose output is wanted, some layers at a time."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.engine.waits import start, wait


class Pass:
    """A lazy graph of the whole pass. Engine thread only; as `Chunk`, but that the output is computed too.

    Args:
        forward: Called with tokens `[rows, n]` and `cache`.
        caches: Grow by `n` tokens each.
        read: What is wanted of the output, a tree of arrays; None wants the caches alone, and no head is computed.
        counted: Tokens that are not padding.
    """

    def __init__(
        self,
        forward: Callable[..., mx.array],
        caches: list[Any],
        tokens: NDArray[np.int32],
        *,
        read: Callable[[mx.array], Any] | None,
        counted: int,
    ) -> None:
        self.shape = tokens.shape[0], tokens.shape[1]
        self.tokens = tokens.size
        self.counted = counted
        self.computed = 0
        self._caches = caches
        output = forward(mx.array(tokens), cache=caches)
        self.output: Any = None if read is None else read(output)
        # What comes after the last cache is reckoned as a layer.
        self.layers = len(caches) + (read is not None)

    @property
    def done(self) -> bool:
        """Whether all is computed."""
        return self.computed >= self.layers

    def run(self, layers: int, meanwhile: Callable[[], None] | None = None) -> None:
        """Compute the next layers. Raises what the device reports.

        Args:
            meanwhile: What the host can do while they are computed. It raises nothing, and puts nothing on the device.
        """
        upto = min(self.layers, self.computed + layers)
        last = [self.output] if upto == self.layers and self.output is not None else []
        wanted = [cache.state for cache in self._caches[self.computed : upto]], last
        if meanwhile is not None:
            start(*wanted)
            meanwhile()
        wait(*wanted)
        self.computed = upto
