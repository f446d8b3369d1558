"""What a draft model has read of rows, kept for rows to come under the rules of the model's own prompt cache."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.engine.batching.row import Row
from backend.engine.batching.tenant_store import TenantStore, say_fault
from backend.engine.loading.failures import FOREIGN

Readable = Callable[[NDArray[np.int32], str], list[tuple[str, NDArray[np.int32]]]]
"""Of a prompt and a tenant: whose prefixes it may be served, and how much of it may be looked up there."""


class KeptDrafts:
    """Engine thread only. In memory alone; a fault costs a hit or a store, never a guess nor an answer.

    Args:
        store: The model's, which has the draft model's beside it.
        erased_since: Whether what a tenant had has been erased since an epoch.

    Attributes:
        stored: How often something was stored: what `match` says may be another then.
    """

    def __init__(self, store: TenantStore, readable: Readable, erased_since: Callable[[int, str], bool]) -> None:
        self._store = store
        self._readable = readable
        self._erased_since = erased_since
        self.stored = 0

    def match(self, tokens: NDArray[np.int32], tenant: str) -> int:
        """Tokens that `fetch` would restore; touches nothing."""
        try:
            return self._best(tokens, tenant)[0]
        except FOREIGN as error:
            say_fault("match_draft", error)
            return 0

    def fetch(self, tokens: NDArray[np.int32], tenant: str) -> tuple[list[Any], int] | None:
        """Caches of the longest prefix that is kept and may be read, and its length, at most `len(tokens) - 1`.

        Nobody else's work may be on the device.
        """
        try:
            _, whose, readable = self._best(tokens, tenant)
            fetched = self._store.drafts.cache.fetch(self._store.drafts.key_of(whose), readable)
        except FOREIGN as error:
            say_fault("fetch_draft", error)
            return None
        return None if fetched.caches is None else (fetched.caches, fetched.length)

    def keep(self, row: Row, tokens: NDArray[np.int32], caches: list[Any]) -> None:
        """Store what was read of a row, exactly `tokens`, where the row leaves anything. As `fetch` of the device."""
        if row.stores and len(tokens) and not self._erased_since(row.epoch, row.request.tenant):
            self._store.insert_draft(tokens, caches, row.request.tenant)
            self.stored += 1

    def forget(self) -> None:
        """Drop all of it: nobody is going to read it."""
        self._store.drafts.clear(None)

    def _best(self, tokens: NDArray[np.int32], tenant: str) -> tuple[int, str, NDArray[np.int32]]:
        drafts = self._store.drafts
        found = [
            (drafts.cache.match_length(drafts.key_of(whose), readable), whose, readable)
            for whose, readable in self._readable(tokens, tenant)
        ]
        return max(found, key=lambda one: one[0])
