"""What is done to the files by name: forgetting, clearing, listing, checking. Everything here waits for the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from mlx_cache.disk.catalog import Entry
from mlx_cache.disk.format import BadFile
from mlx_cache.disk.opened import Opened
from mlx_cache.tree import Tokens

_WRITING_SECONDS = 10.0


class Stored(NamedTuple):
    """A file. `namespace` is the folder's name: what the caller gave is not on the disk, but as a keyed hash.

    `tokens` is how many the file holds of its own, `age` the seconds since it was used last, `hits` those that this
    process read it for.
    """

    file: str
    namespace: str
    tokens: int
    nbytes: int
    age: float
    hits: int


class Upkeep:
    """See the module."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def forget(self, namespace: str, tokens: Tokens, keep: int) -> None:
        """See DiskTier."""
        opened, gone = self._opened, list[Entry]()
        # What waits to be written would come to be after the rest has gone.
        opened.queue.flush(_WRITING_SECONDS)
        folder = opened.chain.namespace(namespace)
        with opened.lock:
            for end, entry in reversed(opened.catalog.chain(folder, tokens)):
                # Nothing on the disk says who else needs a state that stands alone: the caller has.
                if end <= keep:
                    break
                if opened.catalog.is_leaf(entry) and entry.name.key not in opened.catalog.protected:
                    opened.catalog.remove(entry)
                    gone.append(entry)
                elif entry.name.kind.is_block:
                    break
        self._remove(gone)

    def clear(self, namespace: str | None) -> None:
        """See DiskTier."""
        self.clear_folders(self._opened.chain.namespace(namespace) if namespace is not None else "")

    def clear_folders(self, beginning: str) -> None:
        """See DiskTier."""
        opened = self._opened
        opened.dropped(opened.queue.drop(beginning))
        # What is being written right now would come to be after the rest has gone.
        opened.queue.flush(_WRITING_SECONDS)
        with opened.lock:
            for entry in opened.catalog.in_namespaces(beginning):
                opened.catalog.remove(entry)
        with suppress(OSError):
            for name in opened.directory.names(beginning):
                # One that stays is no reason to keep what comes after it.
                with suppress(OSError):
                    opened.directory.remove(name)

    def _remove(self, entries: list[Entry]) -> None:
        for entry in entries:
            with suppress(OSError):
                self._opened.directory.remove(entry.name)

    def entries(self) -> Iterator[Stored]:
        """See DiskTier."""
        now = self._opened.clock()
        with self._opened.lock:
            entries = list(self._opened.catalog)
        for entry in entries:
            name = entry.name
            yield Stored(str(name), name.namespace, name.n, entry.nbytes, max(0.0, now - entry.used), entry.hits)

    def verify(self, *, quarantine: bool) -> Iterator[tuple[str, str]]:
        """See DiskTier."""
        with self._opened.lock:
            entries = list(self._opened.catalog)
        for entry in entries:
            try:
                with self._opened.files.reading(entry.name) as reader:
                    reader.check(reader.header())
            except FileNotFoundError:
                continue
            except (BadFile, OSError) as error:
                if quarantine:
                    self._opened.quarantine(entry, str(error))
                yield str(entry.name), str(error)
