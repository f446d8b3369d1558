"""The cache that callers see, with the call shapes of mlx-lm and LocalAI as well."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from mlx_cache.below import Below, Namespace, text_alone
from mlx_cache.blocks import BLOCK_TOKENS, MAX_BLOCK_TOKENS, Payload
from mlx_cache.competing import CompetingPolicy
from mlx_cache.disk.rests import Share, all_of_it
from mlx_cache.disk.tier import DiskTier
from mlx_cache.eviction import Eviction
from mlx_cache.index import Index
from mlx_cache.inserts import Given, Inserts
from mlx_cache.locked import LockedIndex
from mlx_cache.policy import EvictionPolicy
from mlx_cache.results import Fetched, Inserted
from mlx_cache.stats import Counters, Reason, Refusal
from mlx_cache.tree import Tokens, as_tokens

UNLIMITED = 1 << 62
DEFAULT_MAX_BYTES = 4 << 30
"""What a cache holds at most unless told otherwise: a constant, so that a program does the same on every machine."""
MAX_BUFFERS = 49_900
"""A tenth of the number of live buffers at which Metal stops, whatever their size (about 499,000)."""

_CACHE_TYPES = ("assistant", "user", "system")


class PromptCache:
    """A prefix cache of key/value state. Any number of threads may call any method at once.

    One lock guards the index and is held for index work only. Copies are made outside it on the calling thread;
    what they read is held meanwhile. Returned caches belong to the caller and share nothing with the store.

    `max_size` bounds the stored sequences (those that are no prefix of another), `max_bytes` the bytes of all stored
    arrays; None is no limit. Where mlx-lm's and LocalAI's caches keep ten entries of any size, this one keeps
    4 GiB in any number of sequences: moved code does not grow without bound. `can_trim_fn` and `trim_fn` are accepted
    for LocalAI's sake and unused: what can be cut is known by layer.

    `disk` is a tier below, which the caller opens and closes. It keeps what `disk_namespace` names: from a model key
    it makes the text that says, in this process and in those to come, what must not be mixed, or None for what stays
    in memory. Unless given, keys that are text name themselves.

    `tells_of_others=False` is for keys whose owners must not learn of each other: no reason says then that another
    key has the prompt.
    """

    def __init__(
        self,
        max_size: int | None = None,
        max_bytes: int | None = DEFAULT_MAX_BYTES,
        can_trim_fn: Callable[..., Any] | None = None,
        trim_fn: Callable[..., Any] | None = None,
        *,
        max_buffers: int = MAX_BUFFERS,
        policy: EvictionPolicy | None = None,
        payload: Payload | None = None,
        block_tokens: int = BLOCK_TOKENS,
        disk: DiskTier | None = None,
        disk_namespace: Namespace | None = None,
        tells_of_others: bool = True,
    ) -> None:
        if not 0 < block_tokens <= MAX_BLOCK_TOKENS:
            raise ValueError(f"block_tokens must be in [1, {MAX_BLOCK_TOKENS}], is {block_tokens}")
        del can_trim_fn, trim_fn
        self._payload = payload
        self._below: Below | None = None
        if disk is not None:
            self._below = Below(disk, disk_namespace if disk_namespace is not None else text_alone)
        counters = Counters()
        index = Index(
            Eviction(policy if policy is not None else CompetingPolicy(block_tokens=block_tokens), counters),
            max_bytes=UNLIMITED if max_bytes is None else max(0, max_bytes),
            max_size=UNLIMITED if max_size is None else max(0, max_size),
            max_buffers=max_buffers,
            block_tokens=block_tokens,
        )
        index.tells_of_others = tells_of_others
        self._locked = LockedIndex(index, counters, self._below)
        self._inserts = Inserts(self._locked)

    # Looking up

    def fetch(
        self,
        model_key: Hashable,
        tokens: Sequence[int] | Tokens,
        *,
        room: int = 256,
        template: Sequence[Any] | None = None,
        as_stored: bool = False,
        counted: bool = True,
    ) -> Fetched:
        """Restore the longest usable prefix of `tokens`, at most all but the last, with `room` tokens to grow.

        Given a `template`, a list of empty layer caches as the model makes them, the disk is read where it has more,
        on this thread; what came from there is in memory from then on. With `as_stored` what the payload keeps in
        another form comes in that form: the same bits, to be stored under another key. With `counted=False` nobody has
        asked: neither figures nor what is evicted first know of it.
        """
        asked = as_tokens(tokens)
        if template is not None and self.match_disk_at_most(model_key, asked) > self.match_length(model_key, asked):
            fetched = self._fetch_through(model_key, asked, template, room, counted=counted)
            if fetched is not None:
                return fetched
        with self._locked.looking() as index:
            found = index.find(model_key, asked, max(0, len(asked) - 1), counted=counted)
            length = found.restorable.length
            if counted:
                self._locked.counters.fetched(len(asked), length, found.reason)
        if found.layout is None or found.hold is None:
            return Fetched(None, 0, found.reason, found.agreed)
        try:
            caches = self._ensure_payload().restore(found.layout, found.with_pieces(), room, as_stored=as_stored)
            if self._below is not None and counted:
                self._below.hit(model_key, asked, found)
        finally:
            with self._locked.changing() as index:
                found.hold.release()
                index.enforce()
        return Fetched(caches, length, found.reason, found.agreed)

    def fetch_nearest_cache(
        self, model_key: Hashable, tokens: Sequence[int] | Tokens
    ) -> tuple[list[Any] | None, Sequence[int] | Tokens]:
        """As in mlx-lm: the caches or None, and the tokens still to run. The rest is empty only for an empty prompt."""
        fetched = self.fetch(model_key, tokens)
        return fetched.caches, tokens[fetched.length :]

    def match_length(self, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens a fetch would restore now. Changes nothing, not even what counts as recently used."""
        asked = as_tokens(tokens)
        with self._locked.looking() as index:
            return index.best(model_key, asked, max(0, len(asked) - 1))[3]

    def continuation(
        self, model_key: Hashable, tokens: Sequence[int] | Tokens, most: int = 4096, *, lead_in: int = 0
    ) -> Tokens | None:
        """The tokens behind the longest prefix that a stored sequence which goes on there shares with these, `most` of
        them at most; of several such sequences the one used last. None where none shares a token and goes on.

        Its first tokens are the last `lead_in` ones that are shared, or as many as are. Changes nothing, not even what
        counts as recently used; reads no file, and no key or value.
        """
        asked = as_tokens(tokens)
        with self._locked.looking() as index:
            agreed, parts = index.beyond(self._forms(model_key), asked, most)
        if not agreed:
            return None
        behind = np.concatenate(parts)[:most]
        return np.concatenate([asked[max(0, agreed - lead_in) : agreed], behind])

    def _forms(self, model_key: Hashable) -> list[Hashable]:
        """The keys under which sequences of a model key are kept."""
        return [model_key]

    # The disk below

    def match_disk(self, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens the disk would give now. Index work: no file is touched."""
        return self._below.match(model_key, tokens) if self._below is not None else 0

    def match_disk_at_most(self, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens the disk may give: where in a block a prompt parts, only its file says. Index work."""
        return self._below.match_at_most(model_key, tokens) if self._below is not None else 0

    def fetch_from_disk(
        self,
        model_key: Hashable,
        tokens: Sequence[int] | Tokens,
        template: Sequence[Any],
        room: int = 256,
        cancelled: Callable[[], bool] | None = None,
        *,
        least: int = 1,
        share: Share = all_of_it,
    ) -> Fetched:
        """Read from the disk into caches of the template's classes; see `DiskTier.read`. It may take its time.

        Nothing of it is in memory afterwards: insert what the row that got it ends with.
        """
        if self._below is None:
            return Fetched(None, 0, Reason.EMPTY, 0)
        return self._below.read(model_key, tokens, template, room, cancelled, least, share)

    def forget_on_disk(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, keep: int = 0) -> None:
        """Remove a sequence's files; see `DiskTier.forget`. It may take its time."""
        if self._below is not None:
            self._below.forget(model_key, tokens, keep)

    def hold_on_disk(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, hold: bool) -> None:
        """Keep a sequence's files, those to come too, or let them go again. Index work."""
        if self._below is not None:
            self._below.hold(model_key, tokens, hold=hold)

    def clear_disk(self, model_key: Hashable | None = None) -> None:
        """Remove the files of one model key's namespace, or all. It may take its time."""
        if self._below is not None:
            self._below.clear(model_key)

    def clear_disk_group(self, model_key: Hashable) -> None:
        """Remove the files of every namespace whose first line is that of this model key's. It may take its time."""
        if self._below is not None:
            self._below.clear_group(model_key)

    def flush(self, timeout: float) -> bool:
        """Write all that is worth keeping, the most valuable first; False if the time was not enough."""
        if self._below is None:
            return True
        with self._locked.looking() as index:
            offers = self._below.everything(index)
        return self._below.disk.flush(timeout, offers)

    def _fetch_through(
        self, key: Hashable, tokens: Tokens, template: Sequence[Any], room: int, *, counted: bool
    ) -> Fetched | None:
        least = self.match_length(key, tokens) + 1
        fetched = self.fetch_from_disk(key, tokens, template, room, least=least)
        if fetched.caches is None:
            return None
        if counted:
            with self._locked.looking():
                self._locked.counters.fetched(len(tokens), fetched.length, fetched.reason)
        self.insert(key, tokens[: fetched.length], fetched.caches)
        return fetched

    # Storing

    def insert(
        self,
        model_key: Hashable,
        tokens: Sequence[int] | Tokens,
        prompt_cache: Sequence[Any],
        *,
        snapshot: bool = True,
        apart: bool = False,
        cache_type: str = "assistant",
    ) -> Inserted:
        """Store what the cache covers of `tokens` and is not stored yet.

        Every layer must cover the same number of tokens, and no more than there are; layers that do not count their
        tokens (ArraysCache alone) are taken to cover all. Nothing is stored otherwise: a cache that covers more than
        its key was filled twice. `snapshot=False` leaves out what can only be restored exactly here. `apart=True` cuts
        what is stored already where the sequence ends: a pin of it then holds no byte of what lies behind.
        """
        key_tokens = as_tokens(tokens)
        if self._locked.index.max_size == 0 or self._locked.index.max_bytes == 0:
            return self._inserts.refuse(Refusal.OFF)
        given = Given(
            key=model_key,
            tokens=key_tokens,
            caches=prompt_cache,
            snapshot=snapshot,
            apart=apart,
            cache_type=cache_type,
        )
        return self._inserts.insert(given, self._ensure_payload())

    def insert_cache(
        self,
        model_key: Hashable,
        tokens: Sequence[int] | Tokens,
        prompt_cache: Sequence[Any],
        *,
        cache_type: str = "assistant",
    ) -> None:
        """As in mlx-lm and LocalAI. Unlike theirs, the given caches stay the caller's."""
        self.insert(model_key, tokens, prompt_cache, cache_type=cache_type)

    # Limits and names

    def pin(self, name: str, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """Keep a prefix from eviction under a name, also the part that is stored only later. Returns the length held.

        `clear` and `drop` remove pins with what they hold.
        """
        with self._locked.changing() as index:
            length = index.pin(name, model_key, as_tokens(tokens).copy())
            index.enforce()
            self._locked.pins_changed()
        return length

    def unpin(self, name: str) -> bool:
        """Let a named prefix go; False if there is none of that name."""
        with self._locked.changing() as index:
            known = index.unpin(name)
            index.enforce()
            self._locked.pins_changed()
        return known

    def pinned_length(self, name: str) -> int:
        """The tokens held under this name; 0 for none of that name."""
        with self._locked.looking() as index:
            pin = index.pins.get(name)
            return pin.length if pin is not None else 0

    def forget(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, keep: int = 0) -> None:
        """Remove a sequence: what no other goes through, from its end back to position `keep`, and nothing pinned.

        A sequence that is a prefix of this one and of no other goes with it: say with `keep` what must stay.
        """
        asked = as_tokens(tokens)
        with self._locked.changing() as index:
            index.forget(model_key, asked, keep)

    def trim_to(self, *, n_sequences: int | None = None, n_bytes: int | None = None) -> None:
        """Evict down to these limits once, as far as nothing is pinned or being read."""
        with self._locked.changing() as index:
            index.trim(
                n_bytes=UNLIMITED if n_bytes is None else max(0, n_bytes),
                n_sequences=UNLIMITED if n_sequences is None else max(0, n_sequences),
            )

    def clear(self, model_key: Hashable | None = None) -> None:
        """Remove everything, or everything under one model key, from memory; what is on the disk stays there."""
        with self._locked.changing() as index:
            for key in list(index.spaces) if model_key is None else [model_key]:
                index.drop(key)
            if model_key is None:
                index.pins.clear()
            self._locked.pins_changed()

    def drop(self, model_key: Hashable) -> None:
        """Remove one namespace: its model has been replaced."""
        self.clear(model_key)

    # Figures

    def __len__(self) -> int:
        with self._locked.looking() as index:
            return index.n_sequences

    @property
    def nbytes(self) -> int:
        """Bytes of all stored arrays."""
        with self._locked.looking() as index:
            return index.eviction.nbytes

    @property
    def max_bytes(self) -> int:
        """The byte budget; assigning a smaller one evicts."""
        return self._locked.index.max_bytes

    @max_bytes.setter
    def max_bytes(self, value: int) -> None:
        with self._locked.looking() as index:
            index.max_bytes = max(0, value)
        self.trim_to(n_bytes=value)

    @property
    def max_size(self) -> int:
        """The most sequences stored."""
        return self._locked.index.max_size

    def stats(self) -> dict[str, Any]:
        """Counts and bytes as plain types. `reasons` counts fetches by why they were as long as they were."""
        with self._locked.looking() as index:
            trees = list(index.trees())
            return self._locked.counters.as_dict() | {
                "nbytes": index.eviction.nbytes,
                "n_buffers": index.eviction.n_buffers,
                "n_sequences": index.n_sequences,
                "n_namespaces": len(index.spaces),
                "n_nodes": sum(tree.n_nodes for tree in trees),
                "n_tokens": sum(tree.n_tokens for tree in trees),
                "pins": {name: pin.length for name, pin in index.pins.items()},
                "disk": self._below.disk.stats() if self._below is not None else None,
            }

    def stats_by_type(self) -> dict[str, dict[str, int]]:
        """As in mlx-lm: sequences and bytes by the `cache_type` given on insert."""
        out = {name: {"n_sequences": 0, "n_bytes": 0} for name in _CACHE_TYPES}
        with self._locked.looking() as index:
            for node in (node for tree in index.trees() for node in tree.nodes()):
                entry = out.setdefault(node.cache_type, {"n_sequences": 0, "n_bytes": 0})
                entry["n_sequences"] += node.is_leaf
                entry["n_bytes"] += node.nbytes
        return out

    def _ensure_payload(self) -> Payload:
        if self._payload is None:
            # Here, not above: importing mlx_lm takes a second, and the index needs none of it.
            from mlx_cache.payload import MlxPayload

            self._payload = MlxPayload()
        return self._payload


# The name under which code written for other caches looks for it.
ThreadSafeLRUPromptCache = PromptCache
