"""The engine's seam to the prompt cache: what a request may reuse, and what it leaves behind."""

import logging
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.engine.loading.failures import FOREIGN
from mlx_cache import PromptCache

log = logging.getLogger(__name__)

# mlx-lm's caches that any prefix can be taken of; all others are stored whole, at positions chosen beforehand.
CUT_BY_TOKEN = frozenset({"KVCache", "QuantizedKVCache", "ConcatenateKVCache"})


_SPARED = "spared"


@dataclass(frozen=True, slots=True)
class Reused:
    """What the cache had for a prompt.

    Attributes:
        caches: Fresh layer caches that hold the KV of the first `length` tokens, or None for a miss.
        reason: Why it is no longer, in one word.
    """

    caches: list[Any] | None
    length: int
    reason: str


class PrefixCache:
    """`mlx_cache` for one load of one model. Engine thread only. A fault in it costs a hit or a store, never a request.

    Args:
        store: One whose limits are 0 is a cache turned off.
        key: Names the model and the load.
        snapshots: Some layer cannot be cut by token: only stored positions can be restored, so prefill stops at them.
        lossy: It holds codes of numbers: what is restored is not quite what was stored, and is never stored again.
    """

    def __init__(self, store: PromptCache, key: Hashable, *, snapshots: bool, lossy: bool = False) -> None:
        self._store = store
        self._key = key
        self._most_bytes = store.max_bytes
        self.enabled = store.max_size > 0 and store.max_bytes > 0
        self.snapshots = snapshots and self.enabled
        self.lossy = lossy and self.enabled

    @property
    def nbytes(self) -> int:
        """Bytes of KV stored."""
        return self._store.nbytes

    def match(self, tokens: NDArray[np.int32]) -> int:
        """Tokens that `fetch` would restore; touches nothing."""
        try:
            return self._store.match_length(self._key, tokens)
        except FOREIGN as error:
            _say_fault("match", error)
            return 0

    def fetch(self, tokens: NDArray[np.int32]) -> Reused:
        """Restore the longest usable prefix, at most `len(tokens) - 1`."""
        if not self.enabled:
            return Reused(None, 0, "off")
        try:
            fetched = self._store.fetch(self._key, tokens)
        except FOREIGN as error:
            _say_fault("fetch", error)
            return Reused(None, 0, "error")
        return Reused(fetched.caches, fetched.length, str(fetched))

    def insert(self, tokens: NDArray[np.int32], caches: list[Any], *, restored: int = 0) -> None:
        """Store the KV of exactly `tokens`, of which the first `restored` came from here."""
        # Codes of what was codes before would be other codes: they are kept as long as they are here, never made anew.
        if self.lossy and restored and self.match(tokens) < restored:
            return
        try:
            self._store.insert(self._key, tokens, caches)
        except FOREIGN as error:
            _say_fault("insert", error)

    def limit_to(self, n_bytes: int, *, sparing: NDArray[np.int32] | None = None) -> bool:
        """Keep at most `n_bytes` from now on, and never more than the cache's own limit; whether it had to evict.

        What is stored later makes its room first.

        Args:
            sparing: A prompt whose prefix goes last.
        """
        # A limit of nothing would turn the store off.
        limit = max(1, min(self._most_bytes, n_bytes))
        if not self.enabled or limit == self._store.max_bytes:
            return False
        evicts = self._store.nbytes > limit
        try:
            if evicts and sparing is not None:
                self._store.pin(_SPARED, self._key, sparing)
                self._store.trim_to(n_bytes=limit)
                self._store.unpin(_SPARED)
            self._store.max_bytes = limit
        except FOREIGN as error:
            _say_fault("trim", error)
            # Live rows need the bytes: what cannot be evicted piece by piece goes as a whole.
            self.forget()
        return evicts

    def forget(self) -> None:
        """Drop all that is stored."""
        try:
            self._store.clear()
        except FOREIGN as error:
            _say_fault("clear", error)

    def figures(self) -> Mapping[str, float]:
        """The store's counters by name, nested ones joined by a dot."""
        try:
            return dict(_flat(self._store.stats()))
        except FOREIGN as error:
            _say_fault("figures", error)
            return {}


def _say_fault(what: str, error: BaseException) -> None:
    log.error(logline("prompt_cache_failed", what=what, error=type(error).__name__))
    log.debug(logline("prompt_cache_fault", what=what), exc_info=error)


def needs_snapshots(caches: list[Any]) -> bool:
    """Whether fresh layer caches include one whose state cannot be cut by token."""
    inner = [c for cache in caches for c in getattr(cache, "caches", (cache,))]
    return any(type(cache).__name__ not in CUT_BY_TOKEN for cache in inner)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", float(value)
