"""Prefixes under names: stored, held in memory and on the disk, and told of."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.reports import PrefixFacts
from backend.engine.batching.named import MOST_NAMES, NamedPrefix, NamedPrefixes
from backend.engine.batching.tenant_store import TenantStore, say_fault
from backend.engine.loading.failures import FOREIGN
from backend.engine.loading.kv_cost import KVCost

_TENTATIVE = "tentative"


class KeptNames:
    """Engine thread only.

    Args:
        store: Where they are.
        alone: Nothing but names is kept there: what no name holds any more goes at once.
    """

    def __init__(self, store: TenantStore, *, alone: bool) -> None:
        self._store = store
        self._alone = alone
        self.names = NamedPrefixes()
        for named in store.disk.known_names()[-MOST_NAMES:]:
            # Its files are held. In memory it is like anything else: how much there is of names, others decided.
            self.names.add(named)
            self._hold_files(named, hold=True)

    def keep(
        self, name: str, tokens: NDArray[np.int32], caches: list[Any], tenant: str = "", *, now: float = 0.0
    ) -> bool:
        """Store the KV of exactly `tokens` under a name; False, and the name is as it was, if there is no room."""
        try:
            return self._keep(name, tokens, caches, tenant, now)
        except FOREIGN as error:
            say_fault("keep", error)
            return False

    def _keep(self, name: str, tokens: NDArray[np.int32], caches: list[Any], tenant: str, now: float) -> bool:
        cache, key, before = self._store.cache, self._store.key_of(tenant), self.names.get(tenant, name)
        # Held before it is stored, or it could go again at once; what had the name is held until this is whole.
        cache.pin(_TENTATIVE, key, tokens)
        self._store.insert(tokens, caches, tenant, apart=True)
        whole = cache.pinned_length(_TENTATIVE) == len(tokens)
        if whole:
            if before is not None:
                self._unpin(before)
            named = self.names.put(tenant, name, tokens, now)
            named.pinned = True
            cache.pin(named.pin, key, tokens)
            self._store.disk.keep_name(named)
        cache.unpin(_TENTATIVE)
        left = before.tokens if whole and before is not None else None if whole else tokens
        if left is not None and self._alone:
            # What a name still holds stays.
            self._store.drop_sequence(left, tenant)
        return whole

    def let_go(self, name: str, tenant: str = "") -> bool:
        """Delete a name; what it held is evicted like anything else. False if there is none of that name."""
        named = self.names.remove(tenant, name)
        if named is None:
            return False
        self._unpin(named)
        self._store.disk.drop_name(tenant, name)
        if self._alone:
            self._store.drop_sequence(named.tokens, tenant)
        return True

    def forget(self, tenant: str | None = None) -> None:
        """Forget the names of one tenant, or all, in this process."""
        for named in self._of(tenant):
            self._unpin(named)
            self.names.remove(named.tenant, named.name)

    def _of(self, tenant: str | None) -> list[NamedPrefix]:
        return [named for named in self.names if tenant in (None, named.tenant)]

    def _unpin(self, named: NamedPrefix) -> None:
        if named.pinned:
            self._store.cache.unpin(named.pin)
        else:
            self._hold_files(named, hold=False)

    def _hold_files(self, named: NamedPrefix, *, hold: bool) -> None:
        self._store.cache.hold_on_disk(self._store.key_of(named.tenant), named.tokens, hold=hold)

    def facts(self, tenant: str, cost: KVCost, now: float) -> list[PrefixFacts]:
        """What the tenant has under names, oldest first."""
        return [
            PrefixFacts(
                name=named.name,
                tokens=len(named.tokens),
                nbytes=cost.bytes_for(len(named.tokens)),
                hits=named.hits,
                age_s=now - named.made_at,
                idle_s=None if named.used_at is None else now - named.used_at,
                where=self.where(named),
            )
            for named in sorted(self._of(tenant), key=lambda named: named.made_at)
        ]

    def where(self, named: NamedPrefix) -> str:
        """Where a named prefix is: `memory`, `disk`, `memory and disk`, or `nowhere` (its files are gone)."""
        n = len(named.tokens)
        places: list[str] = []
        # All but the last token of what is asked for may match.
        asked, key = np.append(named.tokens, named.tokens[-1:]), self._store.key_of(named.tenant)
        if self._store.cache.match_length(key, asked) >= n:
            places.append("memory")
        if self._store.cache.match_disk(key, asked) >= n:
            places.append("disk")
        return " and ".join(places) or "nowhere"
