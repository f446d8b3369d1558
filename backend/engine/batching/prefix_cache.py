"""The engine's seam to the prompt cache: what a request may reuse, and what it leaves behind."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.config import STRICT_CHUNK, Isolation
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.kept_conversations import KeptConversations
from backend.engine.batching.kept_drafts import KeptDrafts
from backend.engine.batching.kept_names import KeptNames
from backend.engine.batching.reused import Reused
from backend.engine.batching.tenant_store import TenantStore, say_fault
from backend.engine.disk_threads import Job
from backend.engine.loading.failures import FOREIGN
from backend.engine.quantized.conversion import to_codes, to_numbers
from backend.engine.quantized.kv_format import KVFormat
from backend.engine.speculation.row_drafts import LEAD_IN
from mlx_cache import Fetched

# mlx-lm's caches that any prefix can be taken of; all others are stored whole, at positions chosen beforehand.
CUT_BY_TOKEN = frozenset({"KVCache", "QuantizedKVCache", "ConcatenateKVCache"})
# Reading pays over prefilling once it saves at least this many tokens.
READ_AT_LEAST = 64
# From one look to the next at what a disk still holds in memory.
WRITING_SECONDS = 1.0


class PrefixCache:
    """`mlx_cache` for one load of one model. Engine thread only. A fault in it costs a hit or a store, never a request.

    What a request may read is its own tenant's. Under `performance` the prefixes that were named without a tenant are
    everybody's; under `strict` there is nothing but named prefixes.

    Args:
        store: One whose limits are 0 is a cache turned off. Closed with this. What a draft model has read is beside it.
        snapshots: Some layer cannot be cut by token: only stored positions can be restored, so prefill stops at them.
        codes: It holds these codes of what rows hold as numbers: what is restored is not quite what was stored, and is
            never stored again.

    Attributes:
        drafts: What a draft model reads and finds; None where there is none, or nothing is kept for later ones.
    """

    def __init__(
        self,
        store: TenantStore,
        *,
        snapshots: bool,
        isolation: Isolation = "performance",
        conversations: Conversations,
        codes: KVFormat | None = None,
    ) -> None:
        self._store = store
        self._isolation = isolation
        self._conversations = KeptConversations(store, conversations)
        self._epochs: dict[str, int] = {}
        self._epoch = 0
        self.enabled = store.cache.max_size > 0 and store.cache.max_bytes > 0
        self.snapshots = snapshots and self.enabled
        self._codes = codes
        self.lossy = codes is not None and self.enabled
        self.kept = KeptNames(store, alone=not self.keeps)
        with_drafts = self.keeps and store.beside is not None
        self.drafts = KeptDrafts(store, self._readable, self.erased_since) if with_drafts else None

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
        """Bytes of KV stored, of a draft model too."""
        return self._store.nbytes

    @property
    def draft_nbytes(self) -> int:
        """Those of a draft model."""
        return self._store.draft_nbytes

    @property
    def most_bytes(self) -> int:
        """The cache's own limit."""
        return self._store.most_bytes

    @property
    def disk_state(self) -> str:
        """Whether it is kept on a disk too, or why not."""
        return self._store.disk.state

    def epoch(self, tenant: str) -> int:
        """Changes when what the tenant has cached is erased: what was computed before is not stored after it."""
        return self._epoch + self._epochs.get(tenant, 0)

    def erased_since(self, epoch: int, tenant: str) -> bool:
        """Whether what the tenant had has been erased since this epoch."""
        return epoch != self.epoch(tenant)

    def match(self, tokens: NDArray[np.int32], tenant: str = "") -> int:
        """Tokens that `fetch` would restore; touches nothing."""
        try:
            return self._best(tokens, tenant)[2]
        except FOREIGN as error:
            say_fault("match", error)
            return 0

    def fetch(
        self,
        tokens: NDArray[np.int32],
        tenant: str = "",
        *,
        now: float = 0.0,
        counted: bool = True,
        again: bool = False,
    ) -> Reused:
        """Restore the longest usable prefix, at most `len(tokens) - 1`, at monotonic time `now`.

        Args:
            counted: It is a hit of the names that it takes whole.
            again: The request has been served before, and had to go: nothing counts it once more.
        """
        if not self.enabled:
            return Reused(None, 0, "off" if self.tells else "")
        try:
            whose, readable, _ = self._best(tokens, tenant)
            fetched = self._store.cache.fetch(self._store.key_of(whose), readable, counted=not again)
        except FOREIGN as error:
            say_fault("fetch", error)
            return Reused(None, 0, "error" if self.tells else "")
        if not self.keeps and fetched.length % STRICT_CHUNK:
            # Chunks of this request end elsewhere than those behind a hit of such a length.
            return Reused(None, 0, "")
        if counted and not again:
            self.used(tokens, fetched.length, tenant, now=now)
        return Reused(fetched.caches, fetched.length, self._reason(fetched, whose=whose, tenant=tenant))

    def _best(self, tokens: NDArray[np.int32], tenant: str) -> tuple[str, NDArray[np.int32], int]:
        """Whose prefixes serve this prompt best, as much of it as may be looked up there, and the tokens of the hit."""
        found = [
            (whose, readable, self._store.cache.match_length(self._store.key_of(whose), readable))
            for whose, readable in self._readable(tokens, tenant)
        ]
        return max(found, key=lambda one: one[2])

    def _readable(self, tokens: NDArray[np.int32], tenant: str) -> list[tuple[str, NDArray[np.int32]]]:
        """Tenants, and how much of this prompt may be looked up under each."""
        if not self.keeps:
            named = min(self.kept.names.length(tenant, tokens), len(tokens) - 1)
            return [(tenant, tokens[: named // STRICT_CHUNK * STRICT_CHUNK + 1])]
        if tenant and self._isolation == "performance":
            return [(tenant, tokens), ("", tokens[: self.kept.names.length("", tokens) + 1])]
        return [(tenant, tokens)]

    def donor(self, tokens: NDArray[np.int32], tenant: str, most: int) -> NDArray[np.int32] | None:
        """What came behind as much of this prompt as the tenant has stored: up to `most` tokens that its answer may be
        like, behind the last `LEAD_IN` that are shared. None where there is nothing, and always under strict.

        Others' prefixes give none, not even those that were named for everybody: how fast an answer is would tell what
        another was. Touches nothing.
        """
        return self._store.continuation(tokens, tenant, most, LEAD_IN) if self.keeps else None

    @property
    def has_disk(self) -> bool:
        """Whether there is a disk to read from."""
        return self.enabled and self._store.disk.tier is not None

    def took(
        self, tokens: NDArray[np.int32], read: Reused, tenant: str, *, now: float, again: bool = False
    ) -> list[Any]:
        """A request of this prompt has what a disk gave: the layer caches that its row goes on with.

        Under strict only names are kept, so it is kept here. So are codes, of which the row has the numbers alone.

        Args:
            again: As in `fetch`.
        """
        assert read.caches is not None
        if not again:
            self.used(tokens[: read.length], read.length, tenant, now=now)
        if not self.keeps or self.lossy:
            self._store.insert(tokens[: read.length], read.caches, tenant)
        return to_numbers(read.caches) if self.lossy else read.caches

    def read(self, tokens: NDArray[np.int32], tenant: str, template: list[Any], *, beyond: int) -> Job[Reused] | None:
        """Read a prefix from the disk on a thread of its own; None where it has too little over `beyond` tokens.

        Args:
            template: Empty layer caches, as the model makes them.
        """
        if not self.has_disk:
            return None
        least = beyond + READ_AT_LEAST
        try:
            length, whose, readable = self._best_on_disk(tokens, tenant)
        except FOREIGN as error:
            say_fault("match_disk", error)
            return None
        if length < least:
            return None
        if self._codes is not None:
            template = to_codes(template, self._codes)
        share = self._store.disk.share()

        def work(job: Job[Reused]) -> Reused:
            fetched = self._store.cache.fetch_from_disk(
                self._store.key_of(whose), readable, template, cancelled=lambda: job.cancelled, least=least, share=share
            )
            reason = "disk" if self.tells else ""
            if not self.keeps and fetched.length % STRICT_CHUNK:
                return Reused(None, 0, reason)
            return Reused(fetched.caches, fetched.length, reason)

        return self._store.disk.read(work)

    def rows_decode(self, whether: bool) -> None:
        """Reads leave the machine to those that do."""
        self._store.disk.rows_decode = whether

    def _best_on_disk(self, tokens: NDArray[np.int32], tenant: str) -> tuple[int, str, NDArray[np.int32]]:
        """The tokens that the disk may give at most, whose they are, and as much of the prompt as may be looked up."""
        found = [
            (self._store.cache.match_disk_at_most(self._store.key_of(whose), readable), whose, readable)
            for whose, readable in self._readable(tokens, tenant)
        ]
        return max(found, key=lambda one: one[0])

    def used(self, tokens: NDArray[np.int32], length: int, tenant: str, *, now: float) -> None:
        """A request of this prompt took `length` tokens of it from here: count it for the names that it took whole."""
        for whose in {tenant, ""} if self._isolation == "performance" else {tenant}:
            self.kept.names.used(whose, tokens, length, now)

    def _reason(self, fetched: Fetched, *, whose: str, tenant: str) -> str:
        if not self.tells:
            return ""
        return str(fetched) if whose == tenant else "named"

    def insert(self, tokens: NDArray[np.int32], caches: list[Any], tenant: str = "", *, restored: int = 0) -> None:
        """Store the KV of exactly `tokens`, of which the first `restored` came from here."""
        if self.keeps and self.ensure_codes(tokens, tenant, restored=restored):
            self._store.insert(tokens, caches, tenant)

    def ensure_codes(self, tokens: NDArray[np.int32], tenant: str, *, restored: int) -> bool:
        """Whether the tenant has what was restored, now: no codes are made of codes, for those would be others.

        What was restored from everybody's names becomes the tenant's as it is.
        """
        if not (self.lossy and restored):
            return True
        asked, store = np.append(tokens[:restored], np.int32(0)), self._store
        try:
            if store.cache.match_length(store.key_of(tenant), asked) >= restored:
                return True
            if self._isolation != "performance" or self.match(asked, tenant) < restored:
                return False
            fetched = store.cache.fetch(store.key_of(""), asked, as_stored=True, counted=False)
        except FOREIGN as error:
            say_fault("fetch", error)
            return False
        if fetched.caches is None or fetched.length < restored:
            return False
        store.insert(tokens[:restored], fetched.caches, tenant)
        return True

    def turn(self, conversation_id: str, tokens: NDArray[np.int32], tenant: str = "", *, now: float = 0.0) -> None:
        """A turn of a conversation has left the KV of `tokens` here."""
        self._conversations.turn(conversation_id, tokens, tenant, now=now)

    def forget_idle(self, now: float) -> None:
        """Forget the conversations that have been idle for too long."""
        self._conversations.forget_idle(now)

    def next_due(self, now: float) -> float | None:
        """Seconds until `forget_idle` has something to forget, or what a disk took may have changed; else None."""
        idle = self._conversations.next_idle(now)
        if not self._store.disk.waiting_bytes:
            return idle
        return WRITING_SECONDS if idle is None else min(idle, WRITING_SECONDS)

    def limit_to(self, n_bytes: int, *, sparing: NDArray[np.int32] | None = None, tenant: str = "") -> bool:
        """See TenantStore."""
        if not self.enabled:
            return False
        try:
            return self._store.limit_to(n_bytes, sparing=sparing, tenant=tenant)
        except FOREIGN as error:
            say_fault("trim", error)
            # Live rows need the bytes: what cannot be evicted piece by piece goes as a whole.
            self.forget()
            return True

    def forget(self, tenant: str | None = None) -> None:
        """Drop all that one tenant, or everybody, has in memory, under names too."""
        self.kept.forget(tenant)
        self._conversations.forget(tenant)
        self._store.clear(tenant)

    def erase(self, tenant: str | None) -> None:
        """Drop all that one tenant, or everybody, has stored of this model, in memory and on the disk."""
        if tenant is None:
            self._epoch += 1
        else:
            self._epochs[tenant] = self._epochs.get(tenant, 0) + 1
        self.forget(tenant)
        self._store.disk.clear_notes(tenant)
        self._store.clear_files(tenant)

    def close(self, timeout: float) -> None:
        """Write what is worth keeping, `timeout` seconds at most, then drop all from memory and let the disk go."""
        self._store.close(timeout)
        self.forget()

    def figures(self) -> Mapping[str, float]:
        """The store's counters by name; in strict they are nobody's business."""
        return self._store.figures() if self.tells else {}


def needs_snapshots(caches: list[Any]) -> bool:
    """Whether fresh layer caches include one whose state cannot be cut by token."""
    inner = [c for cache in caches for c in getattr(cache, "caches", (cache,))]
    return any(type(cache).__name__ not in CUT_BY_TOKEN for cache in inner)
