"""The prompt cache of one load with a key for each tenant. A fault in it is told, and costs what was to be done."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.loading.failures import FOREIGN
from mlx_cache import PromptCache

log = logging.getLogger(__name__)

_SPARED = "spared"


class TenantStore:
    """Engine thread only.

    Args:
        cache: In memory, with what it keeps on a disk.
        key: Names the model and the load.
        disk: What of it is beyond the process; closed with this.
    """

    def __init__(self, cache: PromptCache, key: Hashable, disk: CacheDisk) -> None:
        self.cache = cache
        self.disk = disk
        self.most_bytes = cache.max_bytes
        self._key = key

    def key_of(self, tenant: str) -> Hashable:
        """The cache's key of what is this tenant's."""
        return (self._key, tenant)

    def insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str) -> None:
        """Store the KV of exactly `tokens`."""
        try:
            self.cache.insert(self.key_of(tenant), tokens, caches)
        except FOREIGN as error:
            say_fault("insert", error)

    def continuation(self, tokens: NDArray[np.int32], tenant: str, most: int, lead_in: int) -> NDArray[np.int32] | None:
        """Tokens of this tenant's alone; see `PromptCache.continuation`."""
        try:
            return self.cache.continuation(self.key_of(tenant), tokens, most, lead_in=lead_in)
        except FOREIGN as error:
            say_fault("continuation", error)
            return None

    def drop_sequence(
        self,
        tokens: NDArray[np.int32],
        tenant: str,
        *,
        keep: int = 0,
        unless: Callable[[], bool] = lambda: False,
    ) -> None:
        """Remove what only this sequence has beyond its first `keep` tokens, files too.

        Args:
            unless: Asked on a thread that may wait for the disk; true leaves the files.
        """
        key = self.key_of(tenant)
        try:
            self.cache.forget(key, tokens, keep=keep)
        except FOREIGN as error:
            say_fault("forget", error)
        self.disk.later(lambda: None if unless() else self.cache.forget_on_disk(key, tokens))

    def clear(self, tenant: str | None) -> None:
        """Drop all that one tenant, or everybody, has in memory."""
        try:
            self.cache.clear(None if tenant is None else self.key_of(tenant))
        except FOREIGN as error:
            say_fault("clear", error)

    def clear_files(self, tenant: str | None) -> None:
        """Remove the files of one tenant, or of everybody: never those of another model."""
        if tenant is None:
            self.disk.later(lambda: self.cache.clear_disk_group(self.key_of("")))
        else:
            self.disk.later(lambda: self.cache.clear_disk(self.key_of(tenant)))

    def limit_to(self, n_bytes: int, *, sparing: NDArray[np.int32] | None = None, tenant: str = "") -> bool:
        """Keep at most `n_bytes` from now on, and never more than the cache's own limit; whether it had to evict.

        What is stored later makes its room first.

        Args:
            sparing: A prompt of `tenant` whose prefix goes last.

        Raises:
            Exception: The cache's own fault, one of `FOREIGN`.
        """
        # A limit of nothing would turn the cache off.
        limit = max(1, min(self.most_bytes, n_bytes))
        if limit == self.cache.max_bytes:
            return False
        evicts = self.cache.nbytes > limit
        if evicts and sparing is not None:
            self.cache.pin(_SPARED, self.key_of(tenant), sparing)
            self.cache.trim_to(n_bytes=limit)
            self.cache.unpin(_SPARED)
        self.cache.max_bytes = limit
        return evicts

    def close(self, timeout: float) -> None:
        """Write what is worth keeping, `timeout` seconds at most, and let the disk go."""
        until = time.monotonic() + timeout
        try:
            self.cache.flush(timeout)
        except FOREIGN as error:
            say_fault("flush", error)
        self.disk.close(max(0.0, until - time.monotonic()))

    def figures(self) -> Mapping[str, float]:
        """The cache's counters by name, nested ones joined by a dot."""
        try:
            return {name: value for name, value in _flat(self.cache.stats()) if not name.startswith("pins.")}
        except FOREIGN as error:
            say_fault("figures", error)
            return {}


def say_fault(what: str, error: BaseException) -> None:
    """Tell that the prompt cache failed at something."""
    log.error(logline("prompt_cache_failed", what=what, error=type(error).__name__))
    log.debug(logline("prompt_cache_fault", what=what), exc_info=error)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
