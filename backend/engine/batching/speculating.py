"""What the rows of a batch guess of what comes next, and whether a pass over several tokens is worth it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.engine.batching.drafting.drafting import Drafting, Turn, has_guesses
from backend.engine.batching.row import Row
from backend.engine.batching.verification import Verification
from backend.engine.picture import Counters
from backend.engine.sampling.device.places import bytes_of_places
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Drafter, Proposal
from backend.engine.speculation.row_drafts import Experience, RowDrafts

Plan = list[Proposal | None]
"""What each row of a batch proposes, in their order."""
Donor = Callable[[NDArray[np.int32], str, int], NDArray[np.int32] | None]
"""Of a prompt, a tenant and a number: so many tokens, at most, that the answer may be like, of the same tenant's."""


@dataclass(slots=True, kw_only=True)
class Speculating:
    """Engine thread only. Decides how many tokens a step looks at, never which are drawn.

    Args:
        kinds: The drafters; none for no speculation.
        bytes_of: What a pass over so many rows and drafted tokens of each holds beyond what a step does.
        start: Tokens from which on rows hold codes: no pass goes across it. 0 for none.
        apart: No row learns from another what its guesses are worth, and no client is told of them.
        drafting: When a draft model reads and guesses; None where there is none.
    """

    kinds: frozenset[Drafter]
    depths: Depths
    donor: Donor
    counters: Counters
    bytes_of: Callable[[int, int], int]
    start: int = 0
    apart: bool = False
    drafting: Drafting | None = None
    experience: Experience = field(default_factory=Experience)

    def begin(self, row: Row) -> None:
        """The row is about to decode for the first time."""
        if not self.kinds or row.drafts is not None or row.submit.max_tokens < 2:
            return
        prompt = row.submit.prompt.tokens
        row.drafts = RowDrafts(
            prompt,
            kinds=self.kinds,
            donor=self.donor(prompt, row.request.tenant, row.submit.max_tokens)
            if Drafter.CACHE in self.kinds
            else None,
            constraint=row.submit.constraint,
            eos_ids=row.sampling.eos_ids.tolist(),
            experience=Experience() if self.apart else self.experience,
            draws=row.sampling.sampling.temperature != 0.0,
        )
        row.drafted = None if self.apart else 0

    def plan(self, rows: Sequence[Row], *, spare: Callable[[], int]) -> Plan | None:
        """What the rows propose, cut to what the next pass looks at; None for a plain step.

        Args:
            spare: Bytes that nobody is going to need; a pass takes no others.
        """
        most = self.depths.most(len(rows)) if self.kinds else 0
        if self.drafting is not None and any(map(has_guesses, rows)):
            most = self.depths.options[-1]
        if not most:
            return None
        proposals: Plan = [self._proposal(row, most) for row in rows]
        depth = self.depths.choose(proposals)
        if not depth or self.bytes_of(len(rows), depth) > spare():
            return None
        return [None if proposal is None else proposal.cut(depth) for proposal in proposals]

    def turn(self, rows: Sequence[Row], *, may_read: bool) -> Turn | None:
        """What the draft model should do for these rows before their next step; None for nothing.

        Args:
            may_read: Nobody else's prompt waits to be read.
        """
        if self.drafting is None or self.drafting.drafter.fault or self.depths.drafting.rests(len(rows)):
            return None
        limits = [self._limit(row, self.depths.options[-1]) for row in rows]
        proposals = [self._proposal(row, limit) for row, limit in zip(rows, limits, strict=True)]
        return self.drafting.turn(rows, proposals, limits, may_read=may_read, experience=self.experience)

    def guess(self, rows: Sequence[Row], turn: Turn, *, spare: Callable[[], int]) -> None:
        """Have the draft model do so; nothing may be on the device, and nothing that fails here reaches a row."""
        if self.drafting is not None:
            self.drafting.take(rows, turn, spare=spare)

    def let_go(self) -> bool:
        """Whether the draft model had keys and values, which are gone now."""
        if not self.nbytes():
            return False
        if self.drafting is not None:
            self.drafting.drafter.abandon()
        return True

    def leave(self, row: Row) -> None:
        """The row ends, or goes for a while: keep what the draft model has read of it; nothing may be on the device."""
        if self.drafting is not None:
            self.drafting.drafter.leave(row)

    def retain(self, rows: Sequence[Row]) -> None:
        """No other rows decode any more."""
        if self.drafting is not None:
            self.drafting.drafter.retain(rows)

    def _proposal(self, row: Row, most: int) -> Proposal | None:
        most = self._limit(row, most)
        return row.drafts.propose(most) if row.drafts is not None and most > 0 else None

    def _limit(self, row: Row, most: int) -> int:
        """Tokens of the row that a pass may look at beyond the next, of `most`."""
        most = min(most, row.submit.max_tokens - row.completion_tokens - 1)
        if row.covered < self.start:
            most = min(most, self.start - row.covered - 1)
        return most if row.request.max_draft is None else min(most, row.request.max_draft)

    def stepped(self, rows: int, seconds: float) -> None:
        """A plain step gave a token to each of so many rows."""
        if self.kinds:
            self.depths.took(rows, 0, seconds, rows)

    def verified(self, rows: Sequence[Row], plan: Plan, verification: Verification, seconds: float) -> None:
        """A pass has looked at all that was planned."""
        depth = max(len(proposal.tokens) for proposal in plan if proposal is not None)
        self.depths.took(len(rows), depth, seconds, sum(verification.drawn))
        self.counters.verify_passes += 1
        for index, (row, proposal) in enumerate(zip(rows, plan, strict=True)):
            if proposal is None or row.drafts is None:
                continue
            accepted = verification.accepted(index)
            row.drafts.verified(proposal, accepted)
            self.counters.drafted_tokens[proposal.drafter.value] += len(proposal.tokens)
            self.counters.accepted_tokens[proposal.drafter.value] += accepted

    def figures(self) -> Mapping[str, float]:
        """Of steps and passes since the session began; empty where nothing guesses."""
        if not self.kinds:
            return {}
        return {**self.depths.figures(), **(self.drafting.figures() if self.drafting is not None else {})}

    def nbytes(self) -> int:
        """Bytes of keys and values that a draft model holds."""
        return 0 if self.drafting is None else self.drafting.drafter.nbytes()

    @property
    def fault(self) -> str:
        """Why the draft model guesses no more; empty while it does, or where there is none."""
        return "" if self.drafting is None else self.drafting.drafter.fault


def pass_bytes(vocab_size: int, states: int, rows: int, depth: int, *, on_device: bool = False) -> int:
    """What a pass holds beyond a step: logits of each drafted token, as they come and as float32, and the states of
    before, beside which those that are replayed arise; where its draws are made on the device, what those hold."""
    draws = bytes_of_places(vocab_size, rows, depth) if on_device else 0
    return rows * (2 * 4 * depth * vocab_size + 2 * states) + draws
