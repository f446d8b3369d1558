"""The tier's index: what files there are, how they hang together, which are used least. Pure; not thread-safe.

It is made from the names of the files and holds nothing that they do not say, so it can be wrong only by being late.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mlx_cache.disk.names import Chain, Kind, Name
from mlx_cache.tree import Tokens


@dataclass(slots=True, eq=False)
class Entry:
    """One file. `used` is when it was used last, in seconds since the epoch; `stamped` what the file's time says."""

    name: Name
    nbytes: int
    used: float
    stamped: float
    hits: int = 0
    queued: bool = False


@dataclass(slots=True)
class Plan:
    """What to read for the first `length` tokens: whole blocks from the start, then what restores the end."""

    length: int = 0
    entries: list[Entry] = field(default_factory=list[Entry])


@dataclass(slots=True)
class _Below:
    """What hangs behind one point of a chain."""

    keys: set[bytes] = field(default_factory=set[bytes])
    # How many partial blocks and states there are by how many tokens behind the point they end.
    ends: dict[tuple[Kind, int], int] = field(default_factory=dict[tuple[Kind, int], int])


class Catalog:
    """See the module. Invariant: `nbytes` is the sum over all entries."""

    def __init__(self, chain: Chain, block_tokens: int) -> None:
        self._chain = chain
        self._block = block_tokens
        self._entries: dict[bytes, Entry] = {}
        self._below: dict[bytes, _Below] = {}
        # How many files of a namespace stand alone: without any, a walk ends where the blocks do.
        self._alone: dict[str, int] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()
        self.protected: dict[bytes, int] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, name: Name) -> Entry | None:
        """The entry of this very name."""
        entry = self._entries.get(name.key)
        return entry if entry is not None and entry.name == name else None

    def in_namespaces(self, beginning: str) -> list[Entry]:
        """Those of every namespace that begins like this."""
        return [entry for entry in self._entries.values() if entry.name.namespace.startswith(beginning)]

    def add(self, entry: Entry) -> None:
        """A file that is there now. One whose short hash is another's is left out: it will not be found."""
        name = entry.name
        if name.key in self._entries:
            return
        self._entries[name.key] = entry
        self.nbytes += entry.nbytes
        below = self._below.setdefault(name.parent, _Below())
        below.keys.add(name.key)
        if self._is_end(name):
            below.ends[name.kind, name.n] = below.ends.get((name.kind, name.n), 0) + 1
        if name.kind is Kind.ALONE:
            self._alone[name.namespace] = self._alone.get(name.namespace, 0) + 1
        self._offer(entry)

    def remove(self, entry: Entry) -> None:
        """A file that is not there any more."""
        name = entry.name
        if self._entries.get(name.key) is not entry:
            return
        del self._entries[name.key]
        self.nbytes -= entry.nbytes
        below = self._below[name.parent]
        below.keys.discard(name.key)
        if self._is_end(name):
            below.ends[name.kind, name.n] -= 1
            if not below.ends[name.kind, name.n]:
                del below.ends[name.kind, name.n]
        if name.kind is Kind.ALONE:
            self._alone[name.namespace] -= 1
        if not below.keys:
            del self._below[name.parent]
            parent = self._entries.get(name.parent)
            if parent is not None:
                self._offer(parent)

    def _is_end(self, name: Name) -> bool:
        return not name.kind.is_block or name.n < self._block

    def is_leaf(self, entry: Entry) -> bool:
        """Whether no other file needs this one."""
        return not entry.name.kind.is_block or entry.name.key not in self._below

    # Looking up

    def find(self, namespace: str, tokens: Tokens, limit: int) -> Plan:
        """The longest prefix of at most `limit` tokens that the files give."""
        best, blocks = Plan(), list[Entry]()
        parent, position, whole = self._chain.seed(namespace), 0, True
        while True:
            end = self._end_behind(namespace, parent, tokens, position, limit, whole=whole)
            if end is not None:
                length = min(limit, position + end.name.n)
                if length > best.length:
                    best = Plan(length, [end] if end.name.kind is Kind.ALONE else [*blocks, end])
            if position + self._block > len(tokens) or position >= limit:
                return best
            digest = self._chain.block(parent, tokens[position : position + self._block])
            entry = self.at(digest) if whole else None
            if entry is None or not entry.name.kind.is_block:
                whole = False
                if not self._alone.get(namespace):
                    return best
            parent, position = digest, position + self._block
            if whole:
                assert entry is not None
                blocks.append(entry)
                if entry.name.kind is Kind.BLOCK and min(position, limit) > best.length:
                    best = Plan(min(position, limit), list(blocks))

    def _end_behind(
        self, namespace: str, parent: bytes, tokens: Tokens, position: int, limit: int, *, whole: bool
    ) -> Entry | None:
        """The file that ends furthest within the block behind `position`."""
        below = self._below.get(parent[:8])
        if below is None or not below.ends:
            return None
        for kind, n in sorted(below.ends, key=lambda end: -end[1]):
            if kind is not Kind.ALONE and not whole:
                continue
            # What can be cut may be longer than what is wanted.
            if position + n > (len(tokens) if kind is Kind.BLOCK else limit) or kind is Kind.PART:
                continue
            hashed = self._chain.block if kind is Kind.BLOCK else self._chain.state
            digest = hashed(parent, tokens[position : position + n])
            entry = self.at(digest)
            if entry is not None and entry.name.kind is kind:
                return entry
        return None

    def behind(self, namespace: str, blocks: Sequence[Entry]) -> list[Entry]:
        """The blocks that go on where these end, those that were used last first."""
        point = blocks[-1].name.digest if blocks else self._chain.seed(namespace)
        below = self._below.get(point[:8])
        found = [self._entries[key] for key in below.keys] if below is not None else []
        return sorted((e for e in found if e.name.kind is Kind.BLOCK), key=lambda e: -e.used)

    def chain(self, namespace: str, tokens: Tokens) -> list[tuple[int, Entry]]:
        """Every file that holds a part of this sequence, with where it ends, as far as the whole blocks go."""
        out: list[tuple[int, Entry]] = []
        parent = self._chain.seed(namespace)
        for position in range(0, len(tokens) + 1, self._block):
            rest = tokens[position : position + self._block]
            for n in sorted({n for _, n in (self._below.get(parent[:8]) or _Below()).ends}):
                if n <= len(rest):
                    digests = (self._chain.block(parent, rest[:n]), self._chain.state(parent, rest[:n]))
                    out.extend((position + n, entry) for d in digests if (entry := self.at(d)) is not None)
            if len(rest) < self._block:
                break
            parent = self._chain.block(parent, rest)
            entry = self.at(parent)
            if entry is not None:
                out.append((position + self._block, entry))
            elif not self._alone.get(namespace):
                break
        return out

    def at(self, digest: bytes) -> Entry | None:
        """The entry of this hash. A single look into a dictionary, so it needs no lock."""
        entry = self._entries.get(digest[:8])
        return entry if entry is not None and entry.name.digest == digest else None

    # Eviction

    def protect(self, key: bytes, change: int) -> None:
        """Keep what has this key from eviction, or less so."""
        count = self.protected.get(key, 0) + change
        if count > 0:
            self.protected[key] = count
        else:
            self.protected.pop(key, None)

    def least(self) -> Entry | None:
        """The file that was used least lately, of those that no other needs and nobody protects."""
        kept: list[tuple[float, int, Entry]] = []
        found: Entry | None = None
        while self._heap and found is None:
            used, order, entry = heapq.heappop(self._heap)
            entry.queued = False
            if self._entries.get(entry.name.key) is not entry or not self.is_leaf(entry):
                continue
            if entry.used > used:
                self._offer(entry)
            elif entry.name.key in self.protected:
                kept.append((used, order, entry))
            else:
                found = entry
        for item in [*kept, *([(found.used, next(self._order), found)] if found is not None else [])]:
            item[2].queued = True
            heapq.heappush(self._heap, item)
        return found

    def _offer(self, entry: Entry) -> None:
        if not entry.queued and self.is_leaf(entry):
            entry.queued = True
            heapq.heappush(self._heap, (entry.used, next(self._order), entry))
