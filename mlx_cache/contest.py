"""Whether the next eviction may depart from the baseline's order: what that has won and what it can lose. Pure."""

from __future__ import annotations

import heapq
import math

_ALLOWED = 0.0045
"""The share of the baseline's hits that may be put at risk by its expectation; twice that if all of it is missed."""

_LEAST = 0.5
"""The share of what is exposed that is expected to be missed at least. So at most twice the allowance and all that
was won can be lost: never a hundredth of what the baseline serves."""

_TURNOVERS = 8.0
"""How many times the cache's whole content is replaced until what was seen counts a third as much."""

_PRIOR = 0.25
"""The share of the cache's content that counts as lost already, until more is known of what is risked."""


class Contest:
    """A baseline and a rival, by the tokens that each would have served, and the cache that follows one or the other.

    The rival leads while its ghost has served more than the baseline's lately, once by more than the noise of the
    difference (the root of the sum of its squares). Even then it is followed only as far as can be paid. What the
    baseline would hold and the cache does not is exposed: it can be missed once, and then is stored again. So after
    the baseline's order is taken up again, at most the exposed tokens are lost. The invariant: exposed tokens,
    times the share of such that was missed so far, stay below the allowance and half of what was won.

    All amounts are tokens; a moment is a tick of the baseline.
    """

    def __init__(self, *, step: int, allowed: float = _ALLOWED) -> None:
        """`step` is what an eviction takes at most, in tokens."""
        self.rival_leads = False
        self._follows = False
        self._step = step
        self._allowed = allowed
        self._lead = self._squares = 0.0
        self._baseline = self._won = 0.0
        self._exposed: list[tuple[float, int]] = []
        self._at_risk = 0
        self._missed = self._outlived = 0.0
        self._content = 0
        self._passed = -1.0

    @property
    def n_exposed(self) -> int:
        """Entries of what is exposed: at most the blocks that the baseline's ghost holds."""
        return len(self._exposed)

    def served(self, *, baseline: int, rival: int, cache: int) -> None:
        """A fetch: what the two ghosts and the cache itself served of it."""
        ahead = rival - baseline
        self._lead += ahead
        self._squares += ahead * ahead
        self.rival_leads = self._lead > (0.0 if self.rival_leads else math.sqrt(self._squares))
        self._baseline += baseline
        self._won += cache - baseline
        if cache < baseline:
            self._missed += baseline - cache
            self._settle(baseline - cache)

    def evicted(self, last: float, tokens: int) -> None:
        """The cache lost what was used last at that moment."""
        # Equal moments: the ghost evicts a prompt from its end, so of the one it is at it still has the head.
        if self._follows and last >= self._passed:
            heapq.heappush(self._exposed, (last, tokens))
            self._at_risk += tokens

    def advance(self, *, passed: float, turnover: float, content: int) -> None:
        """Something is stored.

        Args:
            passed: What was used last before this moment is not in the baseline's ghost any more.
            turnover: What was stored, as a share of the cache's content.
            content: Tokens in the baseline's ghost.
        """
        self._passed, self._content = passed, content
        while self._exposed and self._exposed[0][0] < passed:
            _, tokens = heapq.heappop(self._exposed)
            self._at_risk -= tokens
            self._outlived += tokens
        kept = math.exp(-turnover / _TURNOVERS)
        self._lead *= kept
        self._squares *= kept
        self._missed *= kept
        self._outlived *= kept

    def follow_rival(self) -> bool:
        """Whether the next eviction goes by the rival's order."""
        self._follows = self.rival_leads and self._can_pay()
        return self._follows

    def _can_pay(self) -> bool:
        prior = _PRIOR * self._content
        share = max(_LEAST, (self._missed + prior) / max(1.0, self._missed + self._outlived + prior))
        won = self._won / 2 if self._won > 0 else self._won
        return share * (self._at_risk + self._step) < self._allowed * self._baseline + won

    def _settle(self, tokens: int) -> None:
        # Which entries were missed is not known; the oldest would be the next to go in any case.
        while tokens > 0 and self._exposed:
            last, size = self._exposed[0]
            taken = min(size, tokens)
            tokens -= taken
            self._at_risk -= taken
            if taken == size:
                heapq.heappop(self._exposed)
            else:
                self._exposed[0] = (last, size - taken)
