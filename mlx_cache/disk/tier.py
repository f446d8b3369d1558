"""The tier as its callers see it. Index work under one lock; what touches the disk never holds it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlx_cache.disk.codec import Codec
from mlx_cache.disk.counters import Counters
from mlx_cache.disk.names import MAX_BLOCK
from mlx_cache.disk.offering import Offering
from mlx_cache.disk.offers import Offer
from mlx_cache.disk.opened import Opened, Settings
from mlx_cache.disk.place import Place
from mlx_cache.disk.reading import Reading
from mlx_cache.disk.rests import Share, all_of_it
from mlx_cache.disk.root import DiskUnusable
from mlx_cache.disk.system import System
from mlx_cache.disk.upkeep import Stored, Upkeep
from mlx_cache.results import Fetched
from mlx_cache.stats import Reason
from mlx_cache.tree import Tokens, as_tokens

logger = logging.getLogger(__name__)

BLOCK_TOKENS = 256
BYTES_PER_SECOND = 80e6
"""What the writer takes at most: decode steps beside it do not show it."""
QUEUE_BYTES = 256 << 20


_RANK_SECONDS = 0.001
"""How much earlier than the one before it each offer of a flush counts as used."""


class DiskTier:
    """Files of KV below a prompt cache, in a directory that several workers may share.

    Any thread may call any method. `match`, `offer`, `protect` and `stats` do index work only; everything else may
    wait for the disk. Until `open` has succeeded, and after `close`, nothing is found and nothing is taken.

    A namespace is a text. Those with the same first line are a group: apart for every read and write, and cleared
    together where that is asked for.

    `max_bytes` bounds the files, `daily_bytes` what all workers on the directory write in a day (UTC),
    `bytes_per_second` the writer while nothing is flushed, `max_age` the seconds that a file may lie unused.
    `changed` may be set: the writer calls it when nothing waits and `stats` tells other files or another state.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        daily_bytes: int | None = None,
        max_age: float | None = None,
        bytes_per_second: float | None = BYTES_PER_SECOND,
        queue_bytes: int = QUEUE_BYTES,
        block_tokens: int = BLOCK_TOKENS,
        rescan_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
        system: System | None = None,
        codec: Codec | None = None,
    ) -> None:
        if not 0 < block_tokens <= MAX_BLOCK:
            raise ValueError(f"block_tokens must be in [1, {MAX_BLOCK}], is {block_tokens}")
        system = system if system is not None else System()
        self.place = Place(Path(directory), system)
        self._settings = Settings(
            self.place, max_bytes, daily_bytes, max_age, bytes_per_second, queue_bytes, block_tokens,
            rescan_seconds, clock, system, self._ensure_codec,
            self._has_changed,
        )  # fmt: skip
        self._codec = codec
        self.changed: Callable[[], None] = lambda: None
        self._counters = Counters()
        self._opened: Opened | None = None
        self._offering: Offering | None = None
        self._off = "not opened"
        self._label: Callable[[str], str] | None = None
        # What is protected, so that it is after the next `open` too.
        self._guard = threading.Lock()
        self._protected: dict[tuple[str, bytes], int] = {}

    def _has_changed(self) -> None:
        self.changed()

    def _ensure_codec(self) -> Codec:
        if self._codec is None:
            # Here, not above: importing mlx_lm takes a second, and the index needs none of it.
            from mlx_cache.disk.arrays import MlxCodec

            self._codec = MlxCodec()
        return self._codec

    # Life

    def open(self) -> None:
        """Make or verify the directory, sweep what killed workers left, learn what is there, start the writer.

        Raises DiskUnusable, whose text is one line.
        """
        if self._opened is not None:
            return
        try:
            opened = Opened(self._settings, self._counters, self._replace)
            self._label = opened.chain.label
            self._serve(opened, instead_of=None)
        except DiskUnusable as error:
            self._off = str(error)
            raise

    def _serve(self, opened: Opened, *, instead_of: Opened | None) -> None:
        """Start it and have it in place of another, unless that is not the present one any more."""
        opened.start()
        with self._guard:
            current = self._opened is instead_of
            if current:
                for (namespace, tokens), count in self._protected.items():
                    opened.protect(namespace, np.frombuffer(tokens, np.int32), count)
                self._opened, self._offering = opened, Offering(opened)
        if not current:
            opened.give_up()

    def _replace(self, lost: Opened) -> None:
        """The writer of `lost`: what lies in the directory now is another's, and is opened as at a start."""
        self._serve(Opened(self._settings, self._counters, self._replace), instead_of=lost)
        lost.give_up()

    @property
    def waiting_bytes(self) -> int:
        """Of arrays that wait to be written, or are being written: nobody else may have them any more."""
        opened = self._opened
        return opened.queue.nbytes if opened is not None else 0

    def close(self, timeout: float) -> None:
        """Write what waits, within the time, then stop. A disk that hangs is left behind with its thread."""
        with self._guard:
            opened, self._opened, self._offering, self._off = self._opened, None, None, "closed"
        if opened is not None:
            opened.close(timeout)

    def flush(self, timeout: float, offers: Iterable[tuple[str, Offer]] = ()) -> bool:
        """Take these offers, by namespace, and write what waits, unpaced; False if the time was not enough.

        The first offers are worth most: none makes room at the cost of one before it, now or later.
        """
        opened, deadline = self._opened, time.monotonic() + timeout
        if opened is None:
            return True
        offers = list(offers)
        with opened.queue.unpaced(), opened.writer.keeping(len(offers) * _RANK_SECONDS):
            for rank, (namespace, offer) in enumerate(offers):
                offer.used, offer.age = True, rank * _RANK_SECONDS
                self.offer(namespace, offer, timeout=max(0.0, deadline - time.monotonic()))
            return opened.queue.flush(max(0.0, deadline - time.monotonic()))

    # Looking up

    def match(self, namespace: str, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens a `read` would give now, at most all but the last. Index work: no file is touched."""
        opened = self._opened
        if opened is None:
            return 0
        return opened.plan(namespace, as_tokens(tokens)).length

    def match_at_most(self, namespace: str, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens a `read` may give, if a block that begins like the prompt goes on as the prompt does.

        Names do not tell where in a block tokens part: for that a read looks into the files. Index work, as `match`.
        """
        opened = self._opened
        if opened is None:
            return 0
        asked = as_tokens(tokens)
        plan = opened.plan(namespace, asked)
        blocks, behind = opened.candidates(namespace, plan)
        most = max((entry.name.n for entry in behind), default=0)
        return min(max(plan.length, len(blocks) * self.block_tokens + most), max(0, len(asked) - 1))

    def read(
        self,
        namespace: str,
        tokens: Sequence[int] | Tokens,
        template: Sequence[Any],
        *,
        room: int = 256,
        least: int = 1,
        cancelled: Callable[[], bool] | None = None,
        share: Share = all_of_it,
    ) -> Fetched:
        """Read the longest usable prefix into caches of the template's classes, with `room` tokens to grow.

        Waits for the disk. `template` is a list of empty layer caches as the model makes them; it stays as it is.
        What is returned is the caller's, evaluated. A file that is wrong in any way is put aside, said in one line of
        the log, and read around; nothing that a file holds raises. `cancelled` is asked between files. A prefix of
        fewer than `least` tokens is left alone. `share`, asked between pieces of some MiB, is the part of the time that
        it may work: below 1 it rests after each, for what shares cores and memory with it.
        """
        opened = self._opened
        if opened is None:
            return Fetched(None, 0, Reason.EMPTY, 0)
        reading = Reading(opened, least, share)
        return reading.read(namespace, as_tokens(tokens), template, room, cancelled or (lambda: False))

    # Storing

    def offer(self, namespace: str, offer: Offer, *, timeout: float = 0.0) -> None:
        """Take what the offer has and the disk has not, as far as the queue has room within the time."""
        offering = self._offering
        if offering is None:
            return
        try:
            offering.offer(namespace, offer, timeout)
        except Exception as error:  # noqa: BLE001 - it is a request's thread: the disk may cost it nothing
            logger.warning("disk tier: not offered: %s: %.200s", type(error).__name__, error)

    def protect(self, namespace: str, tokens: Sequence[int] | Tokens) -> None:
        """Never evict the files of this sequence, those to come too, until `unprotect` is called as often."""
        self._protect(namespace, as_tokens(tokens), 1)

    def unprotect(self, namespace: str, tokens: Sequence[int] | Tokens) -> None:
        """Take one `protect` back."""
        self._protect(namespace, as_tokens(tokens), -1)

    def _protect(self, namespace: str, tokens: Tokens, change: int) -> None:
        with self._guard:
            name = (namespace, tokens.tobytes())
            count = self._protected.get(name, 0) + change
            if count <= 0:
                self._protected.pop(name, None)
            else:
                self._protected[name] = count
            if self._opened is not None and count >= 0:
                self._opened.protect(namespace, tokens, change)

    # Upkeep

    def forget(self, namespace: str, tokens: Sequence[int] | Tokens, *, keep: int = 0) -> None:
        """Remove a sequence's files, those of states on its way too, from its end to `keep` or where another goes on.

        Of states that stand alone nothing says who else needs them: say with `keep` what must stay.
        """
        if self._opened is not None:
            Upkeep(self._opened).forget(namespace, as_tokens(tokens), keep)

    def clear(self, namespace: str | None = None) -> None:
        """Remove the files of one namespace, or all, with what waits to be written."""
        if self._opened is not None:
            Upkeep(self._opened).clear(namespace)

    def clear_group(self, namespace: str) -> None:
        """Remove the files of every namespace whose text has the same first line as this one's."""
        if self._opened is not None:
            Upkeep(self._opened).clear_folders(self._opened.chain.group(namespace))

    def clear_folders(self, beginning: str) -> None:
        """Remove the files of the namespaces that begin like this, named as `entries` names them."""
        if self._opened is not None:
            Upkeep(self._opened).clear_folders(beginning)

    def folder_of(self, namespace: str) -> str:
        """What `entries` calls this namespace; empty while the tier is not open."""
        return self._opened.chain.namespace(namespace) if self._opened is not None else ""

    def label(self, text: str) -> str:
        """32 hexadecimal digits that stand for a text in this directory: a hash under its secret, the same for every
        process, and for this one whatever becomes of the directory. Only while the tier is open.
        """
        assert self._label is not None
        return self._label(text)

    def entries(self) -> Iterator[Stored]:
        """Every file, for a command line."""
        return iter(Upkeep(self._opened).entries() if self._opened is not None else ())

    def verify(self, *, quarantine: bool = False) -> Iterator[tuple[str, str]]:
        """Read every file and check its checksums; gives the name of each bad one and why."""
        return iter(Upkeep(self._opened).verify(quarantine=quarantine) if self._opened is not None else ())

    def stats(self) -> dict[str, Any]:
        """Counts and bytes as plain types; `state` is "on" or why nothing is written."""
        opened = self._opened
        if opened is None:
            return asdict(self._counters) | {
                "bytes": 0, "files": 0, "waiting_bytes": 0, "written_today": 0, "state": f"off: {self._off}",
            }  # fmt: skip
        return opened.stats()

    @property
    def block_tokens(self) -> int:
        """Tokens in a whole block's file."""
        return self._settings.block_tokens
