"""A prompt's chunk on its way through the model, some layers at a time."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.engine.kv.row_caches import copied
from backend.engine.waits import start, wait

Model = Callable[..., mx.array]


class Chunk:
    """A lazy graph of the whole chunk. Evaluating a layer's cache computes what lies before that layer, and no more.

    Engine thread only. Load decides how many layers are evaluated at a time; the graph, and so every bit of what it
    gives, is that of the chunk in one piece. Only the caches are evaluated, so the output head is never computed.
    Until the chunk is `done`, the later layers of `caches` hold what is not computed yet.

    Args:
        tokens: What to run, shape `[n]`.
        caches: The row's, which grow by `n` tokens.
        cuttable: Any prefix can be taken of the caches, so that those of before can be had while the chunk runs.
    """

    def __init__(self, model: Model, caches: list[Any], tokens: NDArray[np.int32], *, cuttable: bool) -> None:
        self.tokens = len(tokens)
        self.layers = len(caches)
        self.computed = 0
        self._caches = caches
        self._put = 0
        # The graph needs these arrays as well, until their layer is computed: they cost nothing.
        self._before: list[Any] | None = [copied(cache) for cache in caches] if cuttable else None
        model(mx.array(tokens)[None], cache=caches)

    @property
    def done(self) -> bool:
        """Whether all layers are computed."""
        return self.computed == self.layers

    def put(self, layers: int) -> None:
        """Put the next layers on the device."""
        self._put = min(self.layers, self.computed + layers)
        if self._before is not None:
            # First: MLX writes a cache in place where nobody else has it.
            self._before[self.computed : self._put] = [None] * (self._put - self.computed)
        start(self._states())

    def wait(self) -> None:
        """Wait for the layers that were put. Raises what the device reports."""
        wait(self._states())
        self.computed = self._put

    def before(self) -> list[Any] | None:
        """Caches of what was covered before the chunk, between two slices; None where they cannot be had."""
        if self._before is None:
            return None
        kept = [copied(cache) for cache in self._caches[: self.computed]]
        for cache in kept:
            cache.trim(self.tokens)
        return [*kept, *self._before[self.computed :]]

    def _states(self) -> list[Any]:
        return [cache.state for cache in self._caches[self.computed : self._put]]
