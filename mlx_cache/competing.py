"""The default policy: orders of eviction compete on what each would have served, and the leader's is followed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from mlx_cache.contest import Contest
from mlx_cache.ghosts import Fingerprints, Ghost
from mlx_cache.policy import EvictionPolicy, LeafLru, Limits, Storing, Usage, ValuePerByte
from mlx_cache.tree import Tokens

_MAX_WAITING = 1 << 18


@dataclass(slots=True)
class RankedUsage(Usage):
    """What each of the competing policies remembers of one thing."""

    parts: tuple[Usage, ...]

    def copy(self) -> RankedUsage:
        """See Usage."""
        return RankedUsage(self.hits, self.last, self.priority, tuple(part.copy() for part in self.parts))


@dataclass(frozen=True, slots=True)
class Asked:
    """A fetch, to be asked of the ghosts."""

    key: Hashable
    tokens: Tokens
    limit: int
    length: int


class CompetingPolicy:
    """Follows the one of several policies that would have served most at this budget, lately."""

    def __init__(
        self, experts: Sequence[Callable[[], EvictionPolicy]] = (LeafLru, ValuePerByte), *, block_tokens: int
    ) -> None:
        self._experts = [expert() for expert in experts]
        self._ghosts = [Ghost(expert(), block_tokens) for expert in experts]
        self._fingerprints = Fingerprints(block_tokens)
        self._contest = Contest(len(experts))
        self._waiting: list[Asked] = []
        self._n_waiting = 0

    @property
    def leader(self) -> int:
        return self._contest.leader

    def tick(self) -> None:
        for expert in self._experts:
            expert.tick()

    def made(self, *, value: float) -> Usage:
        return RankedUsage(0.0, 0.0, 0.0, tuple(expert.made(value=value) for expert in self._experts))

    def used(self, usage: Usage, *, value: float) -> None:
        for expert, part in zip(self._experts, usage.parts, strict=True):
            expert.used(part, value=value)

    def stored_again(self, usage: Usage, *, value: float) -> None:
        for expert, part in zip(self._experts, usage.parts, strict=True):
            expert.stored_again(part, value=value)

    def evicted(self, usage: Usage) -> None:
        for expert, part in zip(self._experts, usage.parts, strict=True):
            expert.evicted(part)

    def priority(self, usage: Usage) -> float:
        return self._experts[self.leader].priority(usage.parts[self.leader])

    def asked(self, key: Hashable, tokens: Tokens, *, limit: int, length: int) -> None:
        self._waiting.append(Asked(key, tokens, limit, length))
        self._n_waiting += len(tokens)
        if self._n_waiting > _MAX_WAITING:
            self._ask()

    def _ask(self) -> None:
        unit = self._fingerprints.unit
        for asked in self._waiting:
            marks = self._fingerprints.of(asked.tokens)
            hits = [ghost.ask(asked.key, marks, asked.limit // unit) for ghost in self._ghosts]
            self._contest.count(hits, asked.length // unit)
        self._waiting.clear()
        self._n_waiting = 0

    def storing(self, storing: Storing, limits: Limits) -> bool:
        self._ask()
        fp = self._fingerprints
        marks = fp.of(storing.tokens)
        inner = Storing(storing.key, fp.layout(storing.layout), marks, storing.snapshot, storing.state_nbytes, [-(-a // fp.unit) for a in storing.available])
        before = self._ghosts[0].stored
        for ghost in self._ghosts:
            ghost.store(inner, limits)
        self._contest.fade((self._ghosts[0].stored - before) / max(1, limits.max_bytes))
        old = self.leader
        self._contest.choose()
        return old != self.leader

    def dropped(self, key: Hashable) -> None:
        self._waiting = [asked for asked in self._waiting if asked.key != key]
        for ghost in self._ghosts:
            ghost.drop(key)
