"""From what the cache offers to files that wait to be written."""

from __future__ import annotations

import threading
import time

import numpy as np

from mlx_cache.disk.codec import Segment
from mlx_cache.disk.names import Kind, Name
from mlx_cache.disk.offers import Offer
from mlx_cache.disk.opened import Opened
from mlx_cache.disk.write_queue import Item
from mlx_cache.tree import Tokens, common_prefix


class Offering:
    """Any thread; index work but for the time that the caller gives the queue."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._block = opened.settings.block_tokens
        self._lock = threading.Lock()
        # Offers of one path come one after another when it is evicted: its hashes are worked out once.
        self._last: tuple[str, Tokens, list[bytes]] = ("", np.empty(0, np.int32), [])

    def offer(self, namespace: str, offer: Offer, timeout: float) -> None:
        """See DiskTier."""
        opened, layout = self._opened, offer.layout
        if not (opened.writer.accepts() or offer.used) or not opened.settings.codec().keeps(layout):
            return
        deadline = time.monotonic() + timeout
        folder, tokens = opened.chain.namespace(namespace), offer.tokens()
        digests = self._digests(folder, tokens)
        known = [opened.catalog.at(digest) for digest in digests[1:]]
        if offer.used:
            with opened.lock:
                opened.use([entry for entry in known if entry is not None], offer.age)
        if not opened.writer.accepts():
            return
        if any(group.is_full for group in layout.groups):
            kind = Kind.BLOCK if layout.cuttable else Kind.PART
            for number in range(offer.start // self._block, len(digests) - 1):
                if known[number] is None:
                    start = number * self._block
                    name = Name(folder, digests[number][:8], digests[number + 1], self._block, kind)
                    self._put(name, offer, start, offer.block(start, start + self._block), deadline)
        if offer.with_end:
            self._put_end(folder, offer, tokens, digests[-1], deadline)

    def _put_end(self, folder: str, offer: Offer, tokens: Tokens, parent: bytes, deadline: float) -> None:
        opened, layout = self._opened, offer.layout
        start = len(tokens) // self._block * self._block
        rest = tokens[start:]
        if layout.cuttable:
            if not len(rest):
                return
            kind, digest, segments = Kind.BLOCK, opened.chain.block(parent, rest), offer.block(start, len(tokens))
        elif offer.restorable():
            kind = Kind.STATE if any(group.is_full for group in layout.groups) and start else Kind.ALONE
            digest, segments = opened.chain.state(parent, rest), offer.tail(start)
        else:
            return
        entry = opened.catalog.at(digest)
        if entry is None:
            self._put(Name(folder, parent[:8], digest, len(rest), kind), offer, start, segments, deadline)
        elif offer.used:
            with opened.lock:
                opened.use([entry], offer.age)

    def _put(self, name: Name, offer: Offer, start: int, segments: list[Segment] | None, deadline: float) -> None:
        if segments is None or name in self._opened.queue:
            return
        layout, state = offer.layout, None if name.kind.is_block else offer.state
        nbytes = sum((s.end - s.first) * layout.groups[s.group].bytes_per_token for s in segments)
        nbytes += state.nbytes if state is not None else 0
        tokens = offer.tokens()[start : start + name.n]
        item = Item(name, start, tokens.copy(), layout, segments, state, nbytes, offer.age)
        if not self._opened.queue.put(item, timeout=max(0.0, deadline - time.monotonic())):
            self._opened.dropped(1)

    def _digests(self, folder: str, tokens: Tokens) -> list[bytes]:
        """The chain of a sequence: the namespace's seed, then one for each whole block."""
        with self._lock:
            last_folder, last_tokens, last = self._last
        agreed = common_prefix(last_tokens, tokens) // self._block if last_folder == folder else -1
        digests = last[: agreed + 1] or [self._opened.chain.seed(folder)]
        for start in range((len(digests) - 1) * self._block, len(tokens) - self._block + 1, self._block):
            digests.append(self._opened.chain.block(digests[-1], tokens[start : start + self._block]))
        with self._lock:
            self._last = (folder, tokens, digests)
        return digests
