"""What the rows and the prompt cache take of the budget, and what has to give way."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import mlx.core as mx

from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.named import MOST_NAMES, NamedPrefix
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.row import Row
from backend.engine.batching.standing import displaceable

# Of what the prompt cache may hold, and of what rows may take: those need the rest.
NAMED_SHARE = 0.5
# Of what the others' names leave: something is always left for whoever comes next. The host's own have no such bound.
TENANT_SHARE = 0.5


@dataclass(slots=True, kw_only=True)
class Room:
    """Engine thread only. The prompt cache gives way to rows, whatever it holds.

    Args:
        drafting: Bytes of KV that a draft model has of the rows.
    """

    budget: MemoryBudget
    prefix: PrefixCache
    prefills: Prefills
    groups: DecodeGroups
    pooled: Pooled
    drafting: Callable[[], int]

    @property
    def rows(self) -> list[Row]:
        """Every row that has KV or is about to."""
        return [*self.groups.rows, *self.prefills.rows, *self.pooled.rows]

    def may_keep(self, tokens: int, *, name: str, tenant: str) -> bool:
        """Whether a prefix of so many tokens may have this name: what is named never gives way to anything."""
        names = self.prefix.kept.names
        replaced = names.get(tenant, name)
        others = [named for named in names if named.tenant != tenant]
        own = [named for named in names if named.tenant == tenant and named is not replaced]
        share = 1.0 if not tenant else TENANT_SHARE
        if replaced is None and len(own) + 1 > share * (MOST_NAMES - len(others)):
            return False
        # Rows are admitted by what is left of `most`, names counted in.
        most_bytes = NAMED_SHARE * min(self.prefix.most_bytes, self.budget.most)
        wanted = self.budget.cost.bytes_for(tokens)
        # What comes in place of as much takes nothing from anybody.
        held = 0 if replaced is None else self._bytes([replaced])
        return wanted <= max(held, share * (most_bytes - self._bytes(others)) - self._bytes(own))

    def named(self) -> int:
        """Bytes that the prompt cache holds under names, at most."""
        return self._bytes(self.prefix.kept.names)

    def _bytes(self, names: Iterable[NamedPrefix]) -> int:
        return sum(self.budget.cost.bytes_for(len(named.tokens)) for named in names if named.pinned)

    def live(self) -> int:
        """Bytes of KV that the rows have now."""
        return self.groups.nbytes() + self.prefills.nbytes() + self.pooled.nbytes() + self.drafting()

    def projected(self, *, without: Collection[Row] = ()) -> int:
        """Bytes of KV that all rows need to run on: those that decode with their padding, prompts each for itself."""
        waiting = (*self.prefills.rows, *self.pooled.rows)
        prompts = [row.expects for row in waiting if row not in without]
        return self.groups.projected(without=without) + self.budget.all_prefilling(prompts)

    def spare(self) -> int:
        """Bytes of the budget that no row is going to need."""
        return self.budget.most - self.projected() - self.named()

    def has_place(self, row: Row, most_rows: int, *, without: Collection[Row] = ()) -> bool:
        """Whether the row may start beside those that run, or could if some of them did not."""
        return len(self.rows) - len(without) < most_rows and self._admits(row, without)

    def leaving_for(self, row: Row, most_rows: int) -> list[Row]:
        """The rows that have to leave so that one of higher priority can start; none where that would not do."""
        running = self.rows
        # One that has ended leaves in any case.
        if any(other.stream.ended for other in running):
            return []
        leaving: list[Row] = []
        for other in displaceable(running, row):
            leaving.append(other)
            if self.has_place(row, most_rows, without=leaving):
                return leaving
        return []

    def _admits(self, row: Row, without: Collection[Row]) -> bool:
        return self.budget.admits(
            row.expects,
            beside=self.projected(without=without) + self.named(),
            rows=len(self.rows) - len(without),
            returning=row.preemptions > 0,
        )

    def make_for(self, row: Row) -> None:
        """The cache gives way before a row takes anything, this row's own prefix last."""
        self.limit_cache(self.projected() + self.budget.prefilling(row.expects), sparing=row)

    def limit_cache(self, live: int, *, sparing: Row | None = None) -> None:
        """Keep the cache to what rows of `live` bytes leave it."""
        room = self.budget.room_for_cache(live)
        spared = None if sparing is None else sparing.feed
        if self.prefix.limit_to(room, sparing=spared, tenant="" if sparing is None else sparing.request.tenant):
            # What was evicted goes back to the system, not into MLX's pool of buffers for later.
            mx.clear_cache()

    def relieved(self) -> bool:
        """Keep rows, copies and cache within the budget; False if the cache's bytes are not enough.

        By what the rows are going to need, which is a block ahead of what they have: there is room when they grow.
        """
        live = max(self.projected(), self.live())
        self.limit_cache(live)
        return self.budget.fits(live + self.named())
