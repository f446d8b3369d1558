"""How much KV may live, and what has to go first. Pure: sizes in, a decision out."""

from collections.abc import Sequence
from dataclasses import dataclass

from backend.engine.loading.kv_cost import KVCost

# mlx-lm's KV caches grow by this many tokens at a time.
BLOCK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes for live rows and cached KV together.

    What is projected for a request is its prompt and one block of growth, never its `max_tokens`: most answers
    end long before, and those that do not can be preempted.

    Attributes:
        total: Bytes of KV, live and cached.
        cost: What one row weighs at a length.
    """

    total: int
    cost: KVCost

    def projected(self, tokens: int) -> int:
        """Bytes that a row of `tokens` needs to run."""
        blocks = -(-(tokens + 1) // BLOCK_TOKENS) + 1
        return self.cost.bytes_for(blocks * BLOCK_TOKENS)

    def joined(self, lengths: Sequence[int]) -> int:
        """Bytes of rows of these lengths; `groups` keeps their padding small beside the budget."""
        return sum(self.projected(length) for length in lengths)

    def room_for_cache(self, live: int) -> int:
        """Bytes that the prompt cache may keep beside `live` bytes of rows."""
        return max(0, self.total - live)

    def fits(self, live: int) -> bool:
        """Whether rows of `live` bytes fit once the cache has given way entirely."""
        return live <= self.total

    def refusal(self, tokens: int) -> str:
        """The sums, for the client whose prompt can never fit."""
        return f"prompt of {tokens} tokens needs {self.projected(tokens)} bytes of KV, the budget is {self.total}"
