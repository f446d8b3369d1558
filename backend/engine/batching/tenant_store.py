"""The prompt cache of one load with a key for each tenant. A fault in it is told, and costs what was to be done."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.loading.failures import FOREIGN
from backend.engine.loading.kv_cost import KVCost
from mlx_cache import PromptCache

log = logging.getLogger(__name__)

_SPARED = "spared"


@dataclass(frozen=True, slots=True)
class Beside:
    """What a draft model has read, in the same budget.

    Attributes:
        store: In memory alone.
        cost: What a sequence weighs there.
        share: The part of the bytes of both that it may have. What it does not take is the model's.
    """

    store: "TenantStore"
    cost: KVCost
    share: float


class TenantStore:
    """Engine thread only.

    Args:
        cache: In memory, with what it keeps on a disk.
        key: Names the model and the load.
        disk: What of it is beyond the process; closed with this.
        beside: What is forgotten with it, and kept within its bytes; None where there is no draft model.

    Attributes:
        most_bytes: Of both, at most.
    """

    def __init__(self, cache: PromptCache, key: Hashable, disk: CacheDisk, beside: Beside | None = None) -> None:
        self.cache = cache
        self.disk = disk
        self.beside = beside
        self.most_bytes = self._limit = cache.max_bytes
        self._key = key

    def key_of(self, tenant: str) -> Hashable:
        """The cache's key of what is this tenant's."""
        return (self._key, tenant)

    @property
    def nbytes(self) -> int:
        """Bytes of KV in memory, of a draft model too."""
        return self.cache.nbytes + self.draft_nbytes

    @property
    def draft_nbytes(self) -> int:
        """Those of a draft model."""
        return 0 if self.beside is None else self.beside.store.nbytes

    @property
    def drafts(self) -> "TenantStore":
        """What a draft model has read; asked only where there is one."""
        assert self.beside is not None
        return self.beside.store

    def insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str, *, apart: bool = False) -> None:
        """Store the KV of exactly `tokens`; `apart` as in `PromptCache.insert`."""
        try:
            self.cache.insert(self.key_of(tenant), tokens, caches, apart=apart)
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
        if self.beside is not None:
            self.drafts.drop_sequence(tokens, tenant, keep=keep)
        self.disk.later(lambda: None if unless() else self.cache.forget_on_disk(key, tokens, keep=keep))

    def clear(self, tenant: str | None) -> None:
        """Drop all that one tenant, or everybody, has in memory."""
        try:
            self.cache.clear(None if tenant is None else self.key_of(tenant))
        except FOREIGN as error:
            say_fault("clear", error)
        if self.beside is not None:
            self.drafts.clear(tenant)

    def clear_files(self, tenant: str | None) -> None:
        """Remove the files of one tenant, or of everybody: never those of another model."""
        if tenant is None:
            self.disk.later(lambda: self.cache.clear_disk_group(self.key_of("")))
        else:
            self.disk.later(lambda: self.cache.clear_disk(self.key_of(tenant)))

    def limit_to(self, n_bytes: int, *, sparing: NDArray[np.int32] | None = None, tenant: str = "") -> bool:
        """Keep at most `n_bytes` from now on, and never more than the cache's own limit; whether it had to evict.

        What is stored later makes its room first. A draft model's part shrinks in proportion.

        Args:
            sparing: A prompt of `tenant` whose prefix goes last.

        Raises:
            Exception: The cache's own fault, one of `FOREIGN`.
        """
        # A limit of nothing would turn the cache off.
        self._limit = limit = max(1, min(self.most_bytes, n_bytes))
        if self.beside is None:
            return self._hold_to(limit, sparing, tenant)
        evicted = self.drafts.limit_to(int(self.beside.share * limit), sparing=sparing, tenant=tenant)
        evicted |= self._hold_to(limit - self.draft_nbytes, sparing, tenant)
        # What is named does not give way.
        return self.drafts.limit_to(self._left_for_drafts()) or evicted

    def insert_draft(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str) -> None:
        """Store what a draft model has read; the model's own makes room for it, as far as the share of both goes."""
        assert self.beside is not None
        drafts, cost = self.drafts, self.beside.cost
        try:
            known = drafts.cache.match_length(drafts.key_of(tenant), tokens)
            new = cost.bytes_for(len(tokens)) - cost.per_token * known
            self._hold_to(self._limit - min(int(self.beside.share * self._limit), drafts.nbytes + new))
            drafts.limit_to(self._left_for_drafts())
            drafts.insert(tokens, caches, tenant)
            self._hold_to(self._limit - drafts.nbytes)
        except FOREIGN as error:
            say_fault("insert_draft", error)

    def _left_for_drafts(self) -> int:
        assert self.beside is not None
        return min(int(self.beside.share * self._limit), self._limit - self.cache.nbytes)

    def _hold_to(self, n_bytes: int, sparing: NDArray[np.int32] | None = None, tenant: str = "") -> bool:
        """Keep the cache itself to so much, whatever is beside it; whether it had to evict."""
        limit = max(1, n_bytes)
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
            own = {name: value for name, value in _flat(self.cache.stats()) if not name.startswith("pins.")}
        except FOREIGN as error:
            say_fault("figures", error)
            return {}
        if self.beside is None:
            return own
        return own | {f"draft.{name}": value for name, value in self.drafts.figures().items()}


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
