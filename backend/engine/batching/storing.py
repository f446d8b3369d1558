"""What rows leave in the prompt cache when they end, or go for a while."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.engine.batching.finishing import internal_fault
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.room import Room
from backend.engine.batching.row import Row
from backend.engine.loading.failures import FOREIGN

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Storing:
    """Engine thread only. Clients have their ends before anything of theirs is stored.

    Args:
        settle: Waits for all that is on the device; it may lose a batch.
        tell: Lets clients have what was posted.
        leaves_drafts: Keeps what a draft model has read of a row; nothing is on the device then.

    Attributes:
        rows: Rows that have come to their end and whose KV is still to be stored.
    """

    prefix: PrefixCache
    groups: DecodeGroups
    room: Room
    settle: Callable[[], None]
    tell: Callable[[], None]
    clock: Callable[[], float]
    leaves_drafts: Callable[[Row], None] = lambda _row: None
    rows: list[Row] = field(default_factory=list[Row])

    def add(self, rows: Iterable[Row]) -> None:
        """Rows that have come to their end."""
        self.rows.extend(rows)

    def store_all(self) -> None:
        """Store what the rows here leave; their clients go on meanwhile, and so do those of their batch."""
        self.rows = [row for row in self.rows if self._leaves_kv(row)]
        if self.rows:
            self.tell()
            self.room.limit_cache(self.room.live())
        for row in self.rows:
            self.store(row)
        self.rows = []

    def store(self, row: Row) -> None:
        """Keep what the row's KV proves: its tokens up to the last one fed. A fault here costs a hit, no request."""
        if not self._leaves_kv(row):
            return
        self.settle()
        if row.caches is None and row not in self.groups.rows:
            return  # its batch was lost
        try:
            caches = row.proven if row.caches is not None else self.groups.view(row)
        except FOREIGN as error:
            internal_fault("store", row, error)
            return
        if caches is not None:
            self._keep(row, row.tokens()[: row.covered], caches)
        self.leaves_drafts(row)

    def store_named(self, row: Row) -> bool:
        """Keep a prompt that is prefilled for nothing but its name; False if there is no room for it."""
        self.settle()
        caches, current = row.proven, not self.prefix.erased_since(row.epoch, row.request.tenant)
        return caches is not None and current and self._name(row, row.submit.prompt.tokens, caches)

    def _keep(self, row: Row, tokens: NDArray[np.int32], caches: list[Any]) -> None:
        request = row.request
        self.prefix.insert(tokens, caches, request.tenant, restored=row.restored)
        # What was cut short is no prefix that anybody meant to name.
        if request.keep_as and row.finished and not self._name(row, tokens, caches):
            log.warning(logline("prefix_not_named", request_id=request.request_id, tokens=len(tokens)))
        if request.conversation_id and self.prefix.keeps:
            self.prefix.turn(request.conversation_id, tokens, request.tenant, now=self.clock())

    def _name(self, row: Row, tokens: NDArray[np.int32], caches: list[Any]) -> bool:
        name, tenant = row.request.keep_as, row.request.tenant
        if not self.room.may_keep(len(tokens), name=name, tenant=tenant):
            return False
        if self.prefix.keeps and not self.prefix.ensure_codes(tokens, tenant, restored=row.restored):
            return False
        return self.prefix.kept.keep(name, tokens, caches, tenant, now=self.clock())

    def _leaves_kv(self, row: Row) -> bool:
        wanted = row.stores and (row.request.cache_answer or not row.generated)
        current = not self.prefix.erased_since(row.epoch, row.request.tenant)
        return self.prefix.keeps and current and wanted and row.covered > 0
