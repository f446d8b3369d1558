"""A pass over several tokens of every row, of which each row keeps its first ones."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache, QuantizedKVCache

from backend.engine.kv.ragged import RaggedKVCache
from backend.engine.kv.row_caches import copied
from backend.engine.kv.scans import token_by_token
from backend.engine.loading.kv_cost import leaves

Model = Callable[..., mx.array]


def can_go_back(caches: Sequence[Any]) -> bool:
    """Whether every layer is of a class whose tokens can be taken back, or whose state can be kept and replayed."""
    return all(
        isinstance(leaf, RaggedKVCache) or type(leaf) in (KVCache, QuantizedKVCache, ArraysCache)
        for leaf in leaves(caches)
    )


class Pass:
    """One pass of a batch over `width` tokens a row. Engine thread only.

    Keys and values are cut by token; states, which cannot be, are kept from before and replayed with what is kept.

    Args:
        tokens: `[rows, width]`, the same on the host; behind what a row has there is anything.

    Attributes:
        logits: `[rows, width, vocab]`, not waited for.
        before_keep: Told what `keep` is, before it does anything.
    """

    before_keep: Callable[[Sequence[int]], None] = staticmethod(lambda _kept: None)

    def __init__(self, model: Model, caches: Sequence[Any], tokens: Sequence[Sequence[int]]) -> None:
        self._model, self._caches, self._tokens = model, list(caches), tokens
        self._states = [copied(cache) for cache in leaves(caches) if type(cache) is ArraysCache]
        with token_by_token():
            self.logits = model(mx.array([list(row) for row in tokens]), cache=self._caches)

    @property
    def width(self) -> int:
        """Tokens of a row in this pass."""
        return len(self._tokens[0])

    def keep(self, kept: Sequence[int]) -> None:
        """Leave the caches as if row i had been fed its first `kept[i]` tokens, 1 or more, and no others."""
        self.before_keep(kept)
        replayed = max(kept)
        if not self._states or min(kept) == self.width:
            self._cut([self.width - n for n in kept])
            return
        self._cut([self.width] * len(kept))
        for cache, state in zip(self._state_caches(), self._states, strict=True):
            cache.cache = state.cache
        with token_by_token(), _lengths(self._state_caches(), kept):
            self._model(mx.array([row[:replayed] for row in self._tokens]), cache=self._caches)
        self._cut([replayed - n for n in kept])

    def _state_caches(self) -> list[Any]:
        return [cache for cache in leaves(self._caches) if type(cache) is ArraysCache]

    def _cut(self, back: Sequence[int]) -> None:
        if not any(back):
            return
        for cache in leaves(self._caches):
            if isinstance(cache, RaggedKVCache):
                cache.rewind(back)
            elif type(cache) is not ArraysCache:
                cache.trim(back[0])


@contextmanager
def _lengths(states: Sequence[Any], kept: Sequence[int]) -> Generator[None]:
    """Rows of unlike lengths go through a pass together; what is behind a row's own moves no state."""
    if len(set(kept)) == 1:
        yield
        return
    for cache in states:
        cache.prepare(lengths=list(kept))
    yield
    for cache in states:
        cache.finalize()
