"""The engine's seam to the prompt cache: what a request may reuse, and what it leaves behind."""

import logging
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.config import STRICT_CHUNK, Isolation
from backend.core.logline import logline
from backend.core.reports import PrefixFacts
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.conversations import Conversations, Left
from backend.engine.batching.named import MOST_NAMES, NamedPrefix, NamedPrefixes
from backend.engine.batching.reused import Reused
from backend.engine.disk_threads import Job
from backend.engine.loading.failures import FOREIGN
from backend.engine.loading.kv_cost import KVCost
from backend.engine.quantized.conversion import to_codes, to_numbers
from backend.engine.quantized.kv_format import KVFormat
from mlx_cache import Fetched, PromptCache

log = logging.getLogger(__name__)

# mlx-lm's caches that any prefix can be taken of; all others are stored whole, at positions chosen beforehand.
CUT_BY_TOKEN = frozenset({"KVCache", "QuantizedKVCache", "ConcatenateKVCache"})


_SPARED, _TENTATIVE = "spared", "tentative"
# Reading pays over prefilling once it saves at least this many tokens.
READ_AT_LEAST = 64


class PrefixCache:
    """`mlx_cache` for one load of one model. Engine thread only. A fault in it costs a hit or a store, never a request.

    What a request may read is its own tenant's. Under `performance` the prefixes that were named without a tenant are
    everybody's; under `strict` there is nothing but named prefixes.

    Args:
        store: One whose limits are 0 is a cache turned off.
        key: Names the model and the load.
        snapshots: Some layer cannot be cut by token: only stored positions can be restored, so prefill stops at them.
        disk: What the store keeps beyond the process; closed with this.
        codes: It holds these codes of what rows hold as numbers: what is restored is not quite what was stored, and is
            never stored again.
    """

    def __init__(
        self,
        store: PromptCache,
        key: Hashable,
        *,
        snapshots: bool,
        isolation: Isolation = "performance",
        conversations: Conversations,
        disk: CacheDisk,
        codes: KVFormat | None = None,
    ) -> None:
        self._store = store
        self._key = key
        self._most_bytes = store.max_bytes
        self._isolation = isolation
        self._conversations = conversations
        self.disk = disk
        self.names = NamedPrefixes()
        self._epochs: dict[str, int] = {}
        self._epoch = 0
        for named in disk.known_names()[-MOST_NAMES:]:
            # Its files are held. In memory it is like anything else: how much there is of names, others decided.
            self.names.add(named)
            self._hold_files(named, hold=True)
        self.enabled = store.max_size > 0 and store.max_bytes > 0
        self.snapshots = snapshots and self.enabled
        self._codes = codes
        self.lossy = codes is not None and self.enabled

    @property
    def keeps(self) -> bool:
        """Whether requests leave anything here for later ones."""
        return self.enabled and self._isolation != "strict"

    @property
    def tells(self) -> bool:
        """Whether clients learn what the cache had for them."""
        return self._isolation != "strict"

    @property
    def nbytes(self) -> int:
        """Bytes of KV stored."""
        return self._store.nbytes

    @property
    def most_bytes(self) -> int:
        """The cache's own limit."""
        return self._most_bytes

    def epoch(self, tenant: str) -> int:
        """Changes when what the tenant has cached is erased: what was computed before is not stored after it."""
        return self._epoch + self._epochs.get(tenant, 0)

    def match(self, tokens: NDArray[np.int32], tenant: str = "") -> int:
        """Tokens that `fetch` would restore; touches nothing."""
        try:
            return self._best(tokens, tenant)[2]
        except FOREIGN as error:
            _say_fault("match", error)
            return 0

    def fetch(self, tokens: NDArray[np.int32], tenant: str = "", *, now: float = 0.0, counted: bool = True) -> Reused:
        """Restore the longest usable prefix, at most `len(tokens) - 1`, at monotonic time `now`.

        Args:
            counted: It is a hit of the names that it takes whole.
        """
        if not self.enabled:
            return Reused(None, 0, "off" if self.tells else "")
        try:
            whose, readable, _ = self._best(tokens, tenant)
            fetched = self._store.fetch(self._key_of(whose), readable)
        except FOREIGN as error:
            _say_fault("fetch", error)
            return Reused(None, 0, "error" if self.tells else "")
        if not self.keeps and fetched.length % STRICT_CHUNK:
            # Chunks of this request end elsewhere than those behind a hit of such a length.
            return Reused(None, 0, "")
        if counted:
            self.used(tokens, fetched.length, tenant, now=now)
        return Reused(fetched.caches, fetched.length, self._reason(fetched, whose=whose, tenant=tenant))

    def _best(self, tokens: NDArray[np.int32], tenant: str) -> tuple[str, NDArray[np.int32], int]:
        """Whose prefixes serve this prompt best, as much of it as may be looked up there, and the tokens of the hit."""
        found = [
            (whose, readable, self._store.match_length(self._key_of(whose), readable))
            for whose, readable in self._readable(tokens, tenant)
        ]
        return max(found, key=lambda one: one[2])

    def _readable(self, tokens: NDArray[np.int32], tenant: str) -> list[tuple[str, NDArray[np.int32]]]:
        """Tenants, and how much of this prompt may be looked up under each."""
        if not self.keeps:
            named = min(self.names.length(tenant, tokens), len(tokens) - 1)
            return [(tenant, tokens[: named // STRICT_CHUNK * STRICT_CHUNK + 1])]
        if tenant and self._isolation == "performance":
            return [(tenant, tokens), ("", tokens[: self.names.length("", tokens) + 1])]
        return [(tenant, tokens)]

    @property
    def has_disk(self) -> bool:
        """Whether there is a disk to read from."""
        return self.enabled and self.disk.tier is not None

    def took(self, tokens: NDArray[np.int32], read: Reused, tenant: str, *, now: float) -> list[Any]:
        """A request of this prompt has what a disk gave: the layer caches that its row goes on with.

        Under strict only names are kept, so it is kept here. So are codes, of which the row has the numbers alone.
        """
        assert read.caches is not None
        self.used(tokens[: read.length], read.length, tenant, now=now)
        if not self.keeps or self.lossy:
            self._insert(tokens[: read.length], read.caches, tenant)
        return to_numbers(read.caches) if self.lossy else read.caches

    def read(self, tokens: NDArray[np.int32], tenant: str, template: list[Any], *, beyond: int) -> Job[Reused] | None:
        """Read a prefix from the disk on a thread of its own; None where it has too little over `beyond` tokens.

        Args:
            template: Empty layer caches, as the model makes them.
        """
        if not self.has_disk:
            return None
        least = beyond + READ_AT_LEAST
        found = [
            (self._store.match_disk_at_most(self._key_of(whose), readable), whose, readable)
            for whose, readable in self._readable(tokens, tenant)
        ]
        length, whose, readable = max(found, key=lambda one: one[0])
        if length < least:
            return None
        if self._codes is not None:
            template = to_codes(template, self._codes)

        def work(job: Job[Reused]) -> Reused:
            fetched = self._store.fetch_from_disk(
                self._key_of(whose), readable, template, cancelled=lambda: job.cancelled, least=least
            )
            reason = "disk" if self.tells else ""
            if not self.keeps and fetched.length % STRICT_CHUNK:
                return Reused(None, 0, reason)
            return Reused(fetched.caches, fetched.length, reason)

        return self.disk.read(work)

    def used(self, tokens: NDArray[np.int32], length: int, tenant: str, *, now: float) -> None:
        """A request of this prompt took `length` tokens of it from here: count it for the names that it took whole."""
        for whose in {tenant, ""} if self._isolation == "performance" else {tenant}:
            self.names.used(whose, tokens, length, now)

    def _key_of(self, tenant: str) -> Hashable:
        return (self._key, tenant)

    def _reason(self, fetched: Fetched, *, whose: str, tenant: str) -> str:
        if not self.tells:
            return ""
        return str(fetched) if whose == tenant else "named"

    def insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str = "", *, restored: int = 0) -> None:
        """Store the KV of exactly `tokens`, of which the first `restored` came from here."""
        # Codes of what was codes before would be other codes: they are kept as long as they are here, never made anew.
        if self.keeps and not (self.lossy and restored and self.match(tokens, tenant) < restored):
            self._insert(tokens, caches, tenant)

    def _insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str) -> None:
        try:
            self._store.insert(self._key_of(tenant), tokens, caches)
        except FOREIGN as error:
            _say_fault("insert", error)

    def keep(
        self, name: str, tokens: NDArray[np.int32], caches: list[Any], tenant: str = "", *, now: float = 0.0
    ) -> bool:
        """Store the KV of exactly `tokens` under a name; False, and the name is as it was, if there is no room."""
        try:
            return self._keep(name, tokens, caches, tenant, now)
        except FOREIGN as error:
            _say_fault("keep", error)
            return False

    def _keep(self, name: str, tokens: NDArray[np.int32], caches: list[Any], tenant: str, now: float) -> bool:
        key, before = self._key_of(tenant), self.names.get(tenant, name)
        # Held before it is stored, or it could go again at once; what had the name is held until this is whole.
        self._store.pin(_TENTATIVE, key, tokens)
        self._insert(tokens, caches, tenant)
        whole = self._store.pinned_length(_TENTATIVE) == len(tokens)
        if whole:
            if before is not None:
                self._unpin(before)
            named = self.names.put(tenant, name, tokens, now)
            named.pinned = True
            self._store.pin(named.pin, key, tokens)
            self.disk.keep_name(named)
        self._store.unpin(_TENTATIVE)
        left = before.tokens if whole and before is not None else None if whole else tokens
        if left is not None and not self.keeps:
            # What a name still holds stays.
            self.drop_sequence(left, tenant)
        return whole

    def _unpin(self, named: NamedPrefix) -> None:
        if named.pinned:
            self._store.unpin(named.pin)
        else:
            self._hold_files(named, hold=False)

    def _hold_files(self, named: NamedPrefix, *, hold: bool) -> None:
        self._store.hold_on_disk(self._key_of(named.tenant), named.tokens, hold=hold)

    def let_go(self, name: str, tenant: str = "") -> bool:
        """Delete a name; what it held is evicted like anything else. False if there is none of that name."""
        named = self.names.remove(tenant, name)
        if named is None:
            return False
        self._unpin(named)
        self.disk.drop_name(tenant, name)
        if not self.keeps:
            self.drop_sequence(named.tokens, tenant)
        return True

    def turn(self, conversation_id: str, tokens: NDArray[np.int32], tenant: str = "", *, now: float = 0.0) -> None:
        """A turn of a conversation has left the KV of `tokens` here."""
        self._drop(self._conversations.turn(tenant, conversation_id, tokens, now))

    def forget_idle(self, now: float) -> None:
        """Forget the conversations that have been idle for too long."""
        self._drop(self._conversations.due(now))

    def next_idle(self, now: float) -> float | None:
        """Seconds until `forget_idle` has something to forget; None while there is nothing."""
        return self._conversations.next_due(now)

    def _drop(self, leaves: Iterable[Left]) -> None:
        for left in leaves:
            self.drop_sequence(left.tokens, left.tenant, keep=left.keep)

    def facts(self, tenant: str, cost: KVCost, now: float) -> list[PrefixFacts]:
        """What the tenant has under names, oldest first."""
        own = sorted((named for named in self.names if named.tenant == tenant), key=lambda named: named.made_at)
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
            for named in own
        ]

    def where(self, named: NamedPrefix) -> str:
        """Where a named prefix is: `memory`, `disk`, `memory and disk`, or `nowhere` (its files are gone)."""
        n = len(named.tokens)
        places: list[str] = []
        # All but the last token of what is asked for may match.
        asked, key = np.append(named.tokens, named.tokens[-1:]), self._key_of(named.tenant)
        if self._store.match_length(key, asked) >= n:
            places.append("memory")
        if self._store.match_disk(key, asked) >= n:
            places.append("disk")
        return " and ".join(places) or "nowhere"

    def drop_sequence(self, tokens: NDArray[np.int32], tenant: str = "", *, keep: int = 0) -> None:
        """Remove what only this sequence has beyond its first `keep` tokens."""
        key = self._key_of(tenant)
        try:
            self._store.forget(key, tokens, keep=keep)
        except FOREIGN as error:
            _say_fault("forget", error)
        self.disk.later(lambda: self._store.forget_on_disk(key, tokens))

    def limit_to(self, n_bytes: int, *, sparing: NDArray[np.int32] | None = None, tenant: str = "") -> bool:
        """Keep at most `n_bytes` from now on, and never more than the cache's own limit; whether it had to evict.

        What is stored later makes its room first.

        Args:
            sparing: A prompt of `tenant` whose prefix goes last.
        """
        # A limit of nothing would turn the store off.
        limit = max(1, min(self._most_bytes, n_bytes))
        if not self.enabled or limit == self._store.max_bytes:
            return False
        evicts = self._store.nbytes > limit
        try:
            if evicts and sparing is not None:
                self._store.pin(_SPARED, self._key_of(tenant), sparing)
                self._store.trim_to(n_bytes=limit)
                self._store.unpin(_SPARED)
            self._store.max_bytes = limit
        except FOREIGN as error:
            _say_fault("trim", error)
            # Live rows need the bytes: what cannot be evicted piece by piece goes as a whole.
            self.forget()
        return evicts

    def forget(self) -> None:
        """Drop all that is stored, under names too."""
        for named in self.names:
            self._unpin(named)
        self.names = NamedPrefixes()
        self._conversations.clear()
        try:
            self._store.clear()
        except FOREIGN as error:
            _say_fault("clear", error)

    def close(self, timeout: float) -> None:
        """Write what is worth keeping, `timeout` seconds at most, then drop all from memory and let the disk go."""
        until = time.monotonic() + timeout
        try:
            self._store.flush(timeout)
        except FOREIGN as error:
            _say_fault("flush", error)
        self.disk.close(max(0.0, until - time.monotonic()))
        self.forget()

    def erase(self, tenant: str | None) -> None:
        """Drop all that one tenant, or everybody, has stored, in memory and on the disk."""
        if tenant is None:
            self._epoch += 1
        else:
            self._epochs[tenant] = self._epochs.get(tenant, 0) + 1
        for named in self.names:
            if tenant in (None, named.tenant):
                self.disk.drop_name(named.tenant, named.name)
        if tenant is None:
            self.forget()
            self.disk.later(self._store.clear_disk)
        else:
            self.clear(tenant)
            self.disk.later(lambda: self._store.clear_disk(self._key_of(tenant)))

    def clear(self, tenant: str) -> None:
        """Drop all that one tenant has stored, under names too."""
        for named in [named for named in self.names if named.tenant == tenant]:
            self._unpin(named)
            self.names.remove(tenant, named.name)
        self._conversations.clear(tenant)
        try:
            self._store.clear(self._key_of(tenant))
        except FOREIGN as error:
            _say_fault("clear", error)

    def figures(self) -> Mapping[str, float]:
        """The store's counters by name, nested ones joined by a dot; in strict they are nobody's business."""
        if not self.tells:
            return {}
        try:
            return {name: value for name, value in _flat(self._store.stats()) if not name.startswith("pins.")}
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
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
