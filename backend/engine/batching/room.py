"""What the rows and the prompt cache take of the budget, and what has to give way."""

from dataclasses import dataclass

import mlx.core as mx

from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.named import MOST_NAMES, NamedPrefix
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.row import Row

# Of what the prompt cache may hold; the rest of it, and the rows, need the rest.
NAMED_SHARE = 0.5


@dataclass(slots=True, kw_only=True)
class Room:
    """Engine thread only. The prompt cache gives way to rows, whatever it holds."""

    budget: MemoryBudget
    prefix: PrefixCache
    prefills: Prefills
    groups: DecodeGroups
    pooled: Pooled

    @property
    def rows(self) -> list[Row]:
        """Every row that has KV or is about to."""
        return [*self.groups.rows, *self.prefills.rows, *self.pooled.rows]

    def may_keep(self, tokens: int, *, name: str, tenant: str) -> bool:
        """Whether a prefix of so many tokens may have this name: what is named never gives way to anything."""
        replaced = self.prefix.kept.names.get(tenant, name)
        if replaced is None and len(self.prefix.kept.names) >= MOST_NAMES:
            return False
        most = NAMED_SHARE * min(self.prefix.most_bytes, self.budget.total)
        return self.named(without=replaced) + self.budget.cost.bytes_for(tokens) <= most

    def named(self, *, without: NamedPrefix | None = None) -> int:
        """Bytes that the prompt cache holds under names, at most."""
        held = (named for named in self.prefix.kept.names if named.pinned and named is not without)
        return sum(self.budget.cost.bytes_for(len(named.tokens)) for named in held)

    def live(self) -> int:
        """Bytes of KV that the rows have now."""
        return self.groups.nbytes() + self.prefills.nbytes() + self.pooled.nbytes()

    def projected(self) -> int:
        """Bytes of KV that all rows need to run on: those that decode with their padding, prompts each for itself."""
        apart = (row.expects for row in (*self.prefills.rows, *self.pooled.rows))
        return self.groups.projected() + self.budget.apart(apart)

    def spare(self) -> int:
        """Bytes of the budget that no row is going to need."""
        return self.budget.most - self.projected() - self.named()

    def admits(self, row: Row) -> bool:
        """Whether the row may start beside those that run."""
        return self.budget.admits(
            row.expects, beside=self.projected() + self.named(), rows=len(self.rows), returning=row.preemptions > 0
        )

    def make_for(self, row: Row) -> None:
        """The cache gives way before a row takes anything, this row's own prefix last."""
        self.limit_cache(self.projected() + self.budget.projected(row.expects), sparing=row)

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
