"""The default policy: two orders of eviction compete on what each would have served. Pure, and free of mlx."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from mlx_cache.blocks import BLOCK_TOKENS
from mlx_cache.contest import Contest
from mlx_cache.ghosts import Fingerprints, Ghost
from mlx_cache.policy import EvictionPolicy, LeafLru, Limits, Storing, Usage, ValuePerByte
from mlx_cache.tree import Tokens

_MAX_WAITING = 1 << 20


@dataclass(slots=True)
class PairedUsage(Usage):
    """What the baseline remembers of one thing, and beside it what the rival does."""

    rival: Usage

    def copy(self) -> PairedUsage:
        """See Usage."""
        return PairedUsage(self.hits, self.last, self.priority, self.rival.copy())


@dataclass(frozen=True, slots=True)
class _Asked:
    key: Hashable
    tokens: Tokens
    limit: int
    length: int


class CompetingPolicy:
    """Leaf LRU, and a rival that is followed while it would have served more and as far as that can be paid.

    Each of the two has a ghost, an index without content at the cache's limits, which sees the same calls. Fetches
    wait until the next insert before the ghosts see them, so that a lookup does not pay for it; at most 2 ** 20
    tokens wait.
    """

    n_orders = 2

    def __init__(self, rival: Callable[[], EvictionPolicy] = ValuePerByte, *, block_tokens: int = BLOCK_TOKENS) -> None:
        self._baseline, self._rival = LeafLru(), rival()
        self._shadow = LeafLru()
        self._fingerprints = Fingerprints(block_tokens)
        self._ghosts = Ghost(self._shadow, self._fingerprints.block), Ghost(rival(), self._fingerprints.block)
        self._contest = Contest(step=block_tokens)
        self._waiting: list[_Asked] = []
        self._n_waiting = 0

    @property
    def rival_leads(self) -> bool:
        """Whether the rival would have served more lately."""
        return self._contest.rival_leads

    @property
    def n_fingerprints(self) -> int:
        """What the ghosts hold, together."""
        return sum(ghost.n_fingerprints for ghost in self._ghosts)

    def tick(self) -> None:
        """See EvictionPolicy."""
        self._baseline.tick()
        self._rival.tick()

    def made(self, *, value: float) -> Usage:
        """See EvictionPolicy."""
        usage = self._baseline.made(value=value)
        return PairedUsage(usage.hits, usage.last, usage.priority, self._rival.made(value=value))

    def used(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        self._baseline.used(usage, value=value)
        self._rival.used(_rivals(usage), value=value)

    def stored_again(self, usage: Usage, *, value: float) -> None:
        """See EvictionPolicy."""
        self._baseline.stored_again(usage, value=value)
        self._rival.stored_again(_rivals(usage), value=value)

    def evicted(self, usage: Usage, *, tokens: int) -> None:
        """See EvictionPolicy."""
        self._contest.evicted(usage.last, tokens)
        self._baseline.evicted(usage, tokens=tokens)
        self._rival.evicted(_rivals(usage), tokens=tokens)

    def priorities(self, usage: Usage) -> tuple[float, ...]:
        """See EvictionPolicy."""
        return usage.priority, _rivals(usage).priority

    def order(self) -> int:
        """See EvictionPolicy."""
        return int(self._contest.follow_rival())

    def asked(self, key: Hashable, tokens: Tokens, *, limit: int, length: int) -> None:
        """See WatchingPolicy."""
        self._waiting.append(_Asked(key, tokens, limit, length))
        self._n_waiting += len(tokens) + self._fingerprints.unit
        if self._n_waiting > _MAX_WAITING:
            self._ask()

    def storing(self, storing: Storing, limits: Limits) -> None:
        """See WatchingPolicy."""
        self._ask()
        folded = self._fingerprints.fold(storing)
        stored = [ghost.store(folded, limits) for ghost in self._ghosts]
        ghost = self._ghosts[0]
        self._contest.advance(
            passed=self._shadow.passed,
            turnover=stored[0] / max(1, ghost.nbytes),
            content=ghost.n_fingerprints * self._fingerprints.unit,
        )

    def dropped(self, key: Hashable) -> None:
        """See WatchingPolicy."""
        # Asked first, not thrown away: each call is one moment for the ghosts as it was for the cache.
        self._ask()
        for ghost in self._ghosts:
            ghost.drop(key)

    def _ask(self) -> None:
        unit = self._fingerprints.unit
        for asked in self._waiting:
            prompt = self._fingerprints.of(asked.tokens)
            baseline, rival = (unit * ghost.ask(asked.key, prompt, asked.limit // unit) for ghost in self._ghosts)
            self._contest.served(baseline=baseline, rival=rival, cache=asked.length // unit * unit)
        self._waiting.clear()
        self._n_waiting = 0


def _rivals(usage: Usage) -> Usage:
    assert isinstance(usage, PairedUsage)
    return usage.rival
