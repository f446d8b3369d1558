"""Conversations that a host has given an id: what each of them left in the prompt cache, and for how long it stays."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_cache.tree import common_prefix

# An edited or repeated turn leaves a branch of its own, and its client may come back to any of the last ones.
MOST_BRANCHES = 4

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Left:
    """A sequence that a conversation left: int32, `[n]`; the first `keep` tokens belong to others as well.

    Attributes:
        gone: The id of the conversation, where all of it is forgotten; empty where only this goes.
        last: When its last turn was.
    """

    tenant: str
    tokens: Tokens
    keep: int
    gone: str
    last: float


@dataclass(slots=True)
class _Conversation:
    last: float
    branches: list[Tokens]


@dataclass(slots=True)
class Conversations:
    """Pure; times are monotonic seconds. An id is only a name to forget by: what a request hits, its tokens decide.

    Attributes:
        idle_s: Seconds after its last turn at which a conversation is forgotten; None is never.
        most: Conversations kept; the one that was longest without a turn is forgotten first.
    """

    idle_s: float | None
    most: int
    _kept: OrderedDict[tuple[str, str], _Conversation] = field(
        default_factory=OrderedDict[tuple[str, str], _Conversation]
    )

    def __len__(self) -> int:
        return len(self._kept)

    def turn(self, tenant: str, conversation_id: str, tokens: Tokens, now: float) -> Iterator[Left]:
        """A turn has left `tokens`; gives what is to be forgotten for it: its oldest branch, or what is idlest."""
        key = (tenant, conversation_id)
        conversation = self._kept.pop(key, None) or _Conversation(now, [])
        self._kept[key] = conversation
        conversation.last = now
        branches = [branch for branch in conversation.branches if not _begins(branch, tokens)]
        conversation.branches = [*branches[-MOST_BRANCHES + 1 :], tokens]
        for branch in branches[: -MOST_BRANCHES + 1]:
            yield self._left(tenant, branch, "", now)
        yield from self.surplus()

    def restore(self, tenant: str, conversation_id: str, branches: Sequence[Tokens], last: float) -> None:
        """Take over what an earlier process knew; the idlest comes first, and all before any turn."""
        self._kept[tenant, conversation_id] = _Conversation(last, list(branches))

    def surplus(self) -> Iterator[Left]:
        """Forget the idlest of too many."""
        while len(self._kept) > self.most:
            yield from self._forget_first()

    def branches(self, tenant: str, conversation_id: str) -> Sequence[Tokens]:
        """What a conversation has left; nothing of one that is not known."""
        conversation = self._kept.get((tenant, conversation_id))
        return () if conversation is None else tuple(conversation.branches)

    def due(self, now: float) -> Iterator[Left]:
        """Forget what has been idle for too long."""
        while (wait := self.next_due(now)) is not None and wait <= 0:
            yield from self._forget_first()

    def next_due(self, now: float) -> float | None:
        """Seconds until a conversation has to be forgotten; None while there is none."""
        if self.idle_s is None or not self._kept:
            return None
        return next(iter(self._kept.values())).last + self.idle_s - now

    def clear(self, tenant: str | None = None) -> None:
        """Their state is gone by other means, of all tenants or of one."""
        for key in [key for key in self._kept if tenant is None or key[0] == tenant]:
            del self._kept[key]

    def _forget_first(self) -> Iterator[Left]:
        (tenant, conversation_id), conversation = self._kept.popitem(last=False)
        for branch in conversation.branches:
            yield self._left(tenant, branch, conversation_id, conversation.last)

    def _left(self, tenant: str, branch: Tokens, gone: str, last: float) -> Left:
        kept = (other for (whose, _), c in self._kept.items() if whose == tenant for other in c.branches)
        return Left(tenant, branch, max((common_prefix(branch, other) for other in kept), default=0), gone, last)


def _begins(branch: Tokens, tokens: Tokens) -> bool:
    return common_prefix(branch, tokens) == len(branch)
