"""The engine's seam to the prompt cache: what a request may reuse, and what it leaves behind."""

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.config import STRICT_CHUNK, Isolation
from backend.core.logline import logline
from backend.engine.batching.conversations import Conversations, Left
from backend.engine.batching.named import NamedPrefixes
from backend.engine.loading.failures import FOREIGN
from mlx_cache import Fetched, PromptCache, Reason

log = logging.getLogger(__name__)

# mlx-lm's caches that any prefix can be taken of; all others are stored whole, at positions chosen beforehand.
CUT_BY_TOKEN = frozenset({"KVCache", "QuantizedKVCache", "ConcatenateKVCache"})


_SPARED = "spared"


@dataclass(frozen=True, slots=True)
class Reused:
    """What the cache had for a prompt.

    Attributes:
        caches: Fresh layer caches that hold the KV of the first `length` tokens, or None for a miss.
        reason: Why it is no longer, in one word, in words that its own tenant may know.
    """

    caches: list[Any] | None
    length: int
    reason: str


class PrefixCache:
    """`mlx_cache` for one load of one model. Engine thread only. A fault in it costs a hit or a store, never a request.

    What a request may read is its own tenant's. Under `performance` the prefixes that were named without a tenant are
    everybody's; under `strict` there is nothing but named prefixes.

    Args:
        store: One whose limits are 0 is a cache turned off.
        key: Names the model and the load.
        snapshots: Some layer cannot be cut by token: only stored positions can be restored, so prefill stops at them.
    """

    def __init__(
        self,
        store: PromptCache,
        key: Hashable,
        *,
        snapshots: bool,
        isolation: Isolation = "performance",
        conversations: Conversations,
    ) -> None:
        self._store = store
        self._key = key
        self._most_bytes = store.max_bytes
        self._isolation = isolation
        self._conversations = conversations
        self.names = NamedPrefixes()
        self.enabled = store.max_size > 0 and store.max_bytes > 0
        self.snapshots = snapshots and self.enabled

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
        if counted:
            self.names.used(whose, tokens, fetched.length, now)
        return Reused(fetched.caches, fetched.length, self._reason(fetched, whose=whose, tenant=tenant))

    def _best(self, tokens: NDArray[np.int32], tenant: str) -> tuple[str, NDArray[np.int32], int]:
        """Whose prefixes serve this prompt best, as much of it as may be looked up there, and the tokens of the hit."""
        own = tokens
        if not self.keeps:
            named = min(self._store.named_length(self._key_of(tenant), tokens), len(tokens) - 1)
            own = tokens[: named // STRICT_CHUNK * STRICT_CHUNK + 1]
        best = (tenant, own, self._store.match_length(self._key_of(tenant), own))
        if tenant and self._isolation == "performance":
            public = tokens[: self._store.named_length(self._key_of(""), tokens) + 1]
            length = self._store.match_length(self._key_of(""), public)
            if length > best[2]:
                best = ("", public, length)
        return best

    def _key_of(self, tenant: str) -> Hashable:
        return (self._key, tenant)

    def _reason(self, fetched: Fetched, *, whose: str, tenant: str) -> str:
        if not self.tells:
            return ""
        if whose != tenant:
            return "named"
        # That others have it under their own key is nothing that this tenant may learn.
        return str(Reason.EMPTY if fetched.reason is Reason.OTHER_NAMESPACE else fetched)

    def insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str = "") -> None:
        """Store the KV of exactly `tokens`."""
        if self.keeps:
            self._insert(tokens, caches, tenant)

    def _insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str) -> None:
        try:
            self._store.insert(self._key_of(tenant), tokens, caches)
        except FOREIGN as error:
            _say_fault("insert", error)

    def keep(
        self, name: str, tokens: NDArray[np.int32], caches: list[Any] | None, tenant: str = "", *, now: float = 0.0
    ) -> bool:
        """Store the KV of exactly `tokens`, if it is given, and hold it under a name; False if there is no room."""
        before = self.names.get(tenant, name)
        named = self.names.put(tenant, name, tokens, now)
        self._store.pin(named.pin, self._key_of(tenant), tokens)
        if caches is not None:
            self._insert(tokens, caches, tenant)
        if before is not None and not self.keeps:
            self.drop_sequence(before.tokens, tenant)
        if self._store.pinned_length(named.pin) == len(tokens):
            return True
        self.let_go(name, tenant)
        return False

    def let_go(self, name: str, tenant: str = "") -> bool:
        """Delete a name; what it held is evicted like anything else. False if there is none of that name."""
        named = self.names.remove(tenant, name)
        if named is None:
            return False
        self._store.unpin(named.pin)
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

    def drop_sequence(self, tokens: NDArray[np.int32], tenant: str = "", *, keep: int = 0) -> None:
        """Remove what only this sequence has beyond its first `keep` tokens."""
        try:
            self._store.forget(self._key_of(tenant), tokens, keep=keep)
        except FOREIGN as error:
            _say_fault("forget", error)

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
        self.names = NamedPrefixes()
        self._conversations.clear()
        try:
            self._store.clear()
        except FOREIGN as error:
            _say_fault("clear", error)

    def clear(self, tenant: str) -> None:
        """Drop all that one tenant has stored, under names too."""
        for named in [named for named in self.names if named.tenant == tenant]:
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
        else:
            yield f"{prefix}{name}", float(value)
