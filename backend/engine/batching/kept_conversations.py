"""Conversations with an id and what is forgotten of them, in memory and on the disk, also by later processes."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from backend.engine.batching.conversations import Conversations, Left
from backend.engine.batching.tenant_store import TenantStore


class KeptConversations:
    """Engine thread only.

    Args:
        store: Where what they left is.
        conversations: As of the last process; those that the disk knows are added.
    """

    def __init__(self, store: TenantStore, conversations: Conversations) -> None:
        self._store = store
        self._conversations = conversations
        for kept, last in store.disk.known_conversations():
            conversations.restore(kept.tenant, kept.key, kept.branches, last)
        self._drop(conversations.surplus())

    def turn(self, conversation_id: str, tokens: NDArray[np.int32], tenant: str, *, now: float) -> None:
        """A turn has left the KV of `tokens` in the cache."""
        disk, conversations = self._store.disk, self._conversations
        key = disk.conversation_key(tenant, conversation_id)
        self._drop(conversations.turn(tenant, key, tokens, now))
        disk.keep_conversation(tenant, key, conversations.branches(tenant, key))

    def forget_idle(self, now: float) -> None:
        """Forget those that have been idle for too long."""
        self._drop(self._conversations.due(now))

    def next_idle(self, now: float) -> float | None:
        """Seconds until `forget_idle` has something to forget; None while there is nothing."""
        return self._conversations.next_due(now)

    def forget(self, tenant: str | None) -> None:
        """What one tenant, or everybody, left is gone from memory by other means."""
        self._conversations.clear(tenant)

    def _drop(self, leaves: Iterable[Left]) -> None:
        disk = self._store.disk
        for left in leaves:
            # Another process on the directory may have had a later turn: then its files go when that one says so.
            goes_on = disk.goes_on_elsewhere(left.gone, left.last)
            self._store.drop_sequence(left.tokens, left.tenant, keep=left.keep, unless=goes_on)
            if left.gone:
                disk.drop_conversation(left.gone, unless=goes_on)
