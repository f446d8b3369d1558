"""Reading a prompt's files into caches."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_cache.blocks import UnsupportedLayer
from mlx_cache.disk.catalog import Entry, Plan
from mlx_cache.disk.codec import Filling
from mlx_cache.disk.format import BadFile
from mlx_cache.disk.opened import Opened
from mlx_cache.disk.rests import Rests, Share, all_of_it
from mlx_cache.results import Fetched
from mlx_cache.stats import Reason
from mlx_cache.tree import Tokens, common_prefix

logger = logging.getLogger(__name__)

_ATTEMPTS = 8
_NOT_THE_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
"""Errors that say nothing about the file that was being read."""


@dataclass(slots=True)
class _Bad(Exception):
    """A file of the plan cannot be used: `reason` is why, or None where it is gone."""

    entry: Entry
    reason: str | None


class Reading:
    """One read. Its own thread may wait for the disk as long as it likes: nobody else waits with it."""

    def __init__(self, opened: Opened, least: int = 1, share: Share = all_of_it) -> None:
        self._opened = opened
        self._least = least
        self._rests = Rests(share, sleep=opened.settings.system.sleep)

    def read(
        self, namespace: str, tokens: Tokens, template: Sequence[Any], room: int, cancelled: Callable[[], bool]
    ) -> Fetched:
        """See DiskTier."""
        self._count(reads=1)
        reason = Reason.EMPTY
        for _ in range(_ATTEMPTS):
            plan = self._into_a_block(namespace, self._opened.plan(namespace, tokens), tokens)
            if plan.length < self._least or not plan.length:
                break
            with self._opened.lock:
                self._opened.use(plan.entries)
            try:
                caches = self._carry_out(plan, tokens, template, room, cancelled)
            except _Bad as bad:
                reason = Reason.UNREADABLE
                if bad.reason is None:
                    self._opened.forget_entry(bad.entry)
                else:
                    self._opened.quarantine(bad.entry, bad.reason)
                continue
            except UnsupportedLayer:
                return Fetched(None, 0, Reason.UNSUPPORTED_LAYER, plan.length)
            except (MemoryError, RuntimeError, OSError) as error:
                logger.warning("disk tier: not read: %.200s", error)
                return Fetched(None, 0, Reason.UNREADABLE, plan.length)
            if caches is None:
                return Fetched(None, 0, Reason.CANCELLED, plan.length)
            self._count(hits=1, tokens_read=plan.length, entries=plan.entries)
            full = plan.length == len(tokens) - 1
            return Fetched(caches, plan.length, Reason.FULL if full else Reason.EXTENDED, plan.length)
        return Fetched(None, 0, reason, 0)

    def _into_a_block(self, namespace: str, plan: Plan, tokens: Tokens) -> Plan:
        """The plan, or a longer one that ends inside a block which begins as the prompt goes on."""
        limit = max(0, len(tokens) - 1)
        if plan.length >= limit:
            return plan
        blocks, behind = self._opened.candidates(namespace, plan)
        start, best = len(blocks) * self._opened.settings.block_tokens, plan
        for entry in behind:
            if start + entry.name.n <= best.length:
                continue
            with suppress(BadFile, OSError):  # whoever reads all of it will say what is wrong
                with self._opened.files.reading(entry.name) as reader:
                    agreed = common_prefix(reader.header().tokens, tokens[start:limit])
                if start + agreed > best.length:
                    best = Plan(start + agreed, [*blocks, entry])
        return best

    def _carry_out(
        self, plan: Plan, tokens: Tokens, template: Sequence[Any], room: int, cancelled: Callable[[], bool]
    ) -> list[Any] | None:
        filling: Filling | None = None
        position = 0
        entry = plan.entries[0]
        try:
            for entry in plan.entries:
                if cancelled():
                    return None
                filling, position = self._take(entry, filling, plan, tokens, position, template, room)
            assert filling is not None
            return filling.finish()
        except BadFile as error:
            raise _Bad(entry, str(error)) from None
        except FileNotFoundError:
            raise _Bad(entry, None) from None
        except OSError as error:
            if error.errno in _NOT_THE_FILES:
                raise
            raise _Bad(entry, error.strerror or str(error)) from None

    def _take(
        self,
        entry: Entry,
        filling: Filling | None,
        plan: Plan,
        tokens: Tokens,
        position: int,
        template: Sequence[Any],
        room: int,
    ) -> tuple[Filling, int]:
        with self._opened.files.reading(entry.name) as reader:
            header = reader.header()
            start = position if entry.name.kind.is_block else plan.length - entry.name.n
            end = min(start + entry.name.n, plan.length)
            if header.start != start or not np.array_equal(header.tokens[: end - start], tokens[start:end]):
                raise BadFile("holds other tokens than its name says")
            if filling is None:
                started = time.perf_counter()
                filling = self._opened.settings.codec().begin(template, header.table, plan.length, room)
                # MLX makes the arrays on a thread of its own.
                self._rests.rest(beside=time.perf_counter() - started)
            reader.body(header, filling.parts(header.table), self._rests.rest)
        return filling, start + entry.name.n

    def _count(self, *, reads: int = 0, hits: int = 0, tokens_read: int = 0, entries: Sequence[Entry] = ()) -> None:
        with self._opened.lock:
            counters = self._opened.counters
            counters.reads += reads
            counters.hits += hits
            counters.tokens_read += tokens_read
            counters.bytes_read += sum(entry.nbytes for entry in entries)
            for entry in entries:
                entry.hits += 1
