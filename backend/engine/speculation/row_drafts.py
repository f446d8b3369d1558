"""What may come next in one row, by all that can tell."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint
from backend.core.logline import logline
from backend.engine.speculation import model_drafts
from backend.engine.speculation.chances import Chances
from backend.engine.speculation.follower import ASSUMED, Follower
from backend.engine.speculation.model_drafts import ModelDrafts
from backend.engine.speculation.ngrams import Ngrams
from backend.engine.speculation.proposal import Drafter, Proposal

log = logging.getLogger(__name__)

LEAD_IN = 16
"""A donor begins with so many of the tokens that it shares with the prompt, so that its place can be told."""
# Less likely ones are not worth asking a grammar for.
_LEAST_CHANCE = 0.1
_LEAST_OF_ALL = 0.03
# Of a forced text the last token is often another, which takes in what comes behind.
_INNER, _LAST = 0, 1
_ASSUMED_FORCED = (0.9, 0.6)
# A row that was not asked for so long goes on without having judged each token.
_MOST_JUDGED = 24
_MEMORY_OF_ALL = 512
_MEMORY_OF_MODEL = 128
# Of the way back to what was assumed.
_FORGOTTEN = 1 / 64


def _of_places() -> Chances:
    return Chances(ASSUMED, memory=_MEMORY_OF_ALL)


def _of_forced() -> Chances:
    return Chances(_ASSUMED_FORCED, memory=_MEMORY_OF_ALL)


def _of_model() -> Chances:
    return Chances(model_drafts.ASSUMED, memory=_MEMORY_OF_ALL, counts=model_drafts.COUNTS)


def _of_any_model() -> Chances:
    return Chances(model_drafts.ASSUMED_OF_ANY, memory=_MEMORY_OF_MODEL, counts=model_drafts.COUNTS_OF_ANY)


@dataclass(frozen=True, slots=True)
class Experience:
    """What the rows of a session have learned together, and a new one begins with. Engine thread only."""

    text: Chances = field(default_factory=_of_places)
    cache: Chances = field(default_factory=_of_places)
    forced: Chances = field(default_factory=_of_forced)
    model: Chances = field(default_factory=_of_model)
    any_model: Chances = field(default_factory=_of_any_model)

    def passed_over(self) -> None:
        """A model was not asked for drafts, for what they are known to be worth: rows to come may find others."""
        for kind in range(len(self.any_model.of)):
            self.any_model.forget(kind, _FORGOTTEN)


class RowDrafts:
    """Proposes tokens for one row. Engine thread only; one a request, kept while it waits in the queue again.

    Nothing here changes what the row draws: a proposal decides only how many tokens a pass looks at. `told` only keeps
    the token; the index of the prompt is made by the first `propose`, and a row that is asked rarely costs next to
    nothing.

    Args:
        prompt: The row's prompt, shape `[n]`, n of 1 or more.
        kinds: Which of the drafters may be used.
        donor: What may be much like the answer. It begins with the last `LEAD_IN` tokens (or fewer) before the place
            where it and the prompt part; if that is the prompt's end, it is followed from there on.
        constraint: The row's grammar, which is asked and never moved.
        eos_ids: Nothing is drafted behind one of them.
        experience: The session's.
        draws: The row draws its tokens by chance; a model's guesses at them are another matter then.

    Attributes:
        model: What another model drafts for the row; None where none does.
    """

    def __init__(
        self,
        prompt: NDArray[np.int32],
        *,
        kinds: frozenset[Drafter],
        donor: NDArray[np.int32] | None = None,
        constraint: Constraint | None = None,
        eos_ids: Collection[int] = (),
        experience: Experience | None = None,
        draws: bool = False,
    ) -> None:
        self._prompt = prompt
        self._kinds = kinds
        self._donor = donor
        self._constraint = constraint
        self._eos_ids = frozenset(eos_ids)
        self._experience = experience or Experience()
        self._answer: Ngrams | None = None
        self._pending: list[int] = []
        self._followers: list[tuple[Drafter, Follower]] = []
        self._forced = Chances(self._experience.forced.of)
        known = self._experience
        self.model: ModelDrafts | None = None
        if Drafter.MODEL in kinds:
            self.model = ModelDrafts(draws=draws, learned_of_any=known.any_model, learned=known.model)
        self._run = 0  # the length of the text that was last found forced, in tokens

    def told(self, token: int) -> None:
        """A token of the answer has been drawn."""
        self._pending.append(token)
        if self.model is not None:
            self.model.judge(token)

    def propose(self, most: int) -> Proposal | None:
        """Up to `most` tokens, 1 or more, that may come next; None where nothing likely is known."""
        self._catch_up(self._answer if self._answer is not None else self._index())
        try:
            return self._best(most)
        except Exception as error:  # noqa: BLE001 - a grammar that fails at looking ahead costs drafts, never a batch
            log.error(logline("draft_failed", error=type(error).__name__))
            self._kinds, self._followers, self.model = frozenset(), [], None
            return None

    def verified(self, proposal: Proposal, accepted: int) -> None:
        """A pass has looked at exactly these tokens of the last proposal; the first `accepted` are the ones drawn."""
        if proposal.drafter is not Drafter.GRAMMAR:
            return  # every token tells about the places in texts, and about a model's guess at it
        for i in range(min(accepted + 1, len(proposal.tokens))):
            kind = _LAST if i == self._run - 1 else _INNER
            for chances in (self._forced, self._experience.forced):
                chances.learn(kind, right=i < accepted)

    def _best(self, most: int) -> Proposal | None:
        best = self._spelt(most)
        for drafter, follower in self._followers:
            if follower.chance < _LEAST_CHANCE:
                continue
            proposal = self._cut(drafter, *follower.draft(most))
            best = _likelier(proposal, best)
        if self.model is not None and len(self.model):
            # Last: of two that promise as much, the one that costs nothing.
            best = _likelier(self._cut(Drafter.MODEL, *self.model.draft(most)), best)
        return best

    def _spelt(self, most: int) -> Proposal | None:
        """What the grammar forces."""
        if self._constraint is None or Drafter.GRAMMAR not in self._kinds:
            return None
        tokens = self._constraint.forced(most + 1)
        if not tokens:
            return None
        self._run = len(tokens)
        inner, last = self._forced.of
        chances = [inner**n for n in range(1, len(tokens))]
        chances.append((chances[-1] if chances else 1.0) * last)
        return Proposal(tuple(tokens), Drafter.GRAMMAR, tuple(chances)).cut(most)

    def _index(self) -> Ngrams:
        prompt, donor = self._prompt, self._donor
        answer = self._answer = Ngrams(prompt)
        if Drafter.TEXT in self._kinds:
            self._followers.append((Drafter.TEXT, Follower(answer, answer, self._experience.text)))
        if Drafter.CACHE in self._kinds and donor is not None and len(donor):
            follower = Follower(Ngrams(donor), answer, self._experience.cache, at=_shared(prompt, donor))
            self._followers.append((Drafter.CACHE, follower))
        self._donor = None
        return answer

    def _catch_up(self, answer: Ngrams) -> None:
        """Judge what was drawn since the last time, or go past it where that is much."""
        pending, self._pending = self._pending, []
        if len(pending) > _MOST_JUDGED:
            answer.extend(pending)
            for _, follower in self._followers:
                follower.skipped()
            return
        for token in pending:
            for _, follower in self._followers:
                follower.judge(token)
            answer.append(token)
            for _, follower in self._followers:
                follower.settle()

    def _cut(self, drafter: Drafter, tokens: list[int], chances: list[float]) -> Proposal | None:
        """As much of a draft as is likely, ends with the answer and is allowed."""
        n = len(tokens)
        while n and chances[n - 1] < _LEAST_OF_ALL:
            n -= 1
        if self._eos_ids:
            n = next((i + 1 for i in range(n) if tokens[i] in self._eos_ids), n)
        if n and self._constraint is not None:
            n = self._constraint.valid(tokens[:n])
        return Proposal(tuple(tokens[:n]), drafter, tuple(chances[:n])) if n else None


def _likelier(proposal: Proposal | None, best: Proposal | None) -> Proposal | None:
    if proposal is None or (best is not None and sum(proposal.chances) <= sum(best.chances)):
        return best
    return proposal


def _shared(prompt: NDArray[np.int32], donor: NDArray[np.int32]) -> int | None:
    """How many tokens the prompt ends with that the donor begins with, `LEAD_IN` at most; None for none."""
    for n in range(min(LEAD_IN, len(prompt), len(donor)), 0, -1):
        if np.array_equal(prompt[-n:], donor[:n]):
            return n
    return None
