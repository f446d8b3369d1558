"""The budget of live KV: what may run, and what has to go first. Pure: sizes in, a decision out."""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from backend.engine.loading.kv_cost import KVCost

# mlx-lm's KV caches grow by this many tokens at a time.
BLOCK_TOKENS = 256
# A cache that grows, is merged or loses rows is copied layer by layer, and so many layers of copies may be on the
# device before the first old one is free: 8 on a CPU, of however many (`python -m benchmarks.peaks`). On GPUs it has
# not been measured.
LAYERS_IN_FLIGHT = 10


def _blocks(tokens: int) -> int:
    """Of a row of so many tokens, with one to grow into."""
    return -(-(tokens + 1) // BLOCK_TOKENS) + 1


def copied_share(layers: int) -> float:
    """The part of a batch's bytes that may exist twice while it is copied."""
    return min(1.0, LAYERS_IN_FLIGHT / max(layers, 1))


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes for live rows, cached KV, and what of the rows exists twice while a batch is copied.

    What is projected for a request is its prompt and one block of growth, never its `max_tokens`: most answers
    end long before, and those that do not can be preempted.

    Attributes:
        total: Bytes of KV: live, cached, and copies on their way.
        cost: What one row weighs at a length.
        beside: What a draft model has of it weighs.
        copied: Share of the rows' bytes that may exist twice; see `copied_share`.
        chunk: Tokens of a pass over a prompt, at most.
    """

    total: int
    cost: KVCost
    copied: float = 0.0
    beside: KVCost = field(default_factory=KVCost)
    chunk: int = 1

    @property
    def most(self) -> int:
        """Bytes that rows may take, copies apart."""
        return int(self.total / (1 + self.copied))

    def with_copies(self, live: int) -> int:
        """Bytes of rows that take `live`, with what exists twice while any of them join, leave or grow."""
        return live + math.ceil(self.copied * live)

    def projected(self, tokens: int) -> int:
        """Bytes that a row of `tokens` needs to decode on."""
        return self._bytes_of(_blocks(tokens))

    def prefilling(self, tokens: int) -> int:
        """Bytes that a row needs which is on its way to `tokens` of its own, and then to decode."""
        return self._bytes_of(_blocks(tokens), self._pass(tokens))

    def all_prefilling(self, lengths: Iterable[int]) -> int:
        """Bytes of rows on their way to these lengths, each by itself."""
        # Texts come by hundreds, and most are of the same few blocks.
        alike = Counter((_blocks(tokens), self._pass(tokens)) for tokens in lengths)
        return sum(count * self._bytes_of(*kind) for kind, count in alike.items())

    def _pass(self, tokens: int) -> int:
        """Tokens of a pass over a prompt of so many, where any layer weighs by it."""
        return min(self.chunk, max(1, tokens)) if self.cost.windows else 1

    def _bytes_of(self, blocks: int, chunk: int = 1) -> int:
        grown = blocks * BLOCK_TOKENS
        return self.cost.bytes_for(grown, chunk=chunk) + self.beside.bytes_for(grown)

    def apart(self, lengths: Iterable[int]) -> int:
        """Bytes of rows of these lengths, each in a batch of its own."""
        return sum(map(self.projected, lengths))

    def together(self, lengths: Collection[int]) -> int:
        """Bytes of one batch of rows of these lengths, which pads them to the longest."""
        return len(lengths) * self.projected(max(lengths)) if lengths else 0

    def padding(self, lengths: Collection[int], joining: int) -> int:
        """Bytes that a row of length `joining` takes in a batch of rows of these lengths beyond what it needs apart."""
        return self.together((*lengths, joining)) - self.together(lengths) - self.projected(joining)

    def admits(self, tokens: int, *, beside: int, rows: int, returning: bool) -> bool:
        """Whether a row of `tokens` may start beside `rows` rows that need `beside` bytes.

        One that had to go before returns only where the others can grow by a block each as well, or it would go again
        as soon as they do.
        """
        growth = rows * BLOCK_TOKENS * (self.cost.most_per_token + self.beside.most_per_token) if returning else 0
        return self.fits(beside + self.prefilling(tokens) + growth)

    def room_for_cache(self, live: int) -> int:
        """Bytes that the prompt cache may keep beside `live` bytes of rows and their copies."""
        return max(0, self.total - self.with_copies(live))

    def fits(self, live: int) -> bool:
        """Whether rows of `live` bytes fit once the cache has given way entirely."""
        return live <= self.most

    def refusal(self, tokens: int) -> str:
        """The sums, for the client whose prompt can never fit."""
        needs = self.with_copies(self.prefilling(tokens))
        return f"prompt of {tokens} tokens needs {needs} bytes of KV, copies included, the budget is {self.total}"
