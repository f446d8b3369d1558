"""A grammar that is compiled: constraints of it for any number of answers, and what it has grown to."""

import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint
from backend.grammar.constraints import GrammarConstraint, TextConstraint
from backend.grammar.llguidance_engine import Matcher
from backend.grammar.vocabulary import Vocabulary
from backend.grammar.waiting import Activation, AfterReasoning, AfterTrigger

AT_ONCE = Activation()


class MaskTime:
    """Seconds that a grammar's slow masks have taken, of all its answers together; engine thread writes.

    Its lexer's states are shared by all of them and stay while the grammar is cached. They are made in slow masks
    only, so this says how much it may have grown, and when it should be made anew: at its limit it would fail.
    """

    SLOW_S = 0.0005
    SPENT_S = 2.0
    BYTES_A_SECOND = 16 << 20

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """One mask's time."""
        if seconds > self.SLOW_S:
            self.seconds += seconds

    @property
    def spent(self) -> bool:
        """The grammar should be compiled anew for the next answer."""
        return self.seconds > self.SPENT_S

    @property
    def bytes(self) -> int:
        """What the lexer may have grown by."""
        return int(self.seconds * self.BYTES_A_SECOND)


class CompiledGrammar:
    """Shared by the requests that send the same grammar. Any thread."""

    def __init__(self, matcher: Matcher, vocabulary: Vocabulary, line_breaks: NDArray[np.uint32], size: int) -> None:
        """`size` is what compiling took, in bytes."""
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._line_breaks = line_breaks
        self._size = size
        self._time = MaskTime()

    @property
    def bytes(self) -> int:
        """What it may hold by now."""
        return self._size + self._time.bytes

    @property
    def spent(self) -> bool:
        """Its lexer has learned so much that it should be compiled anew."""
        return self._time.spent

    def constraint(self, activation: Activation = AT_ONCE) -> Constraint:
        """A constraint for one answer, at its beginning; takes some 10 us."""
        bytes_of = self._vocabulary.tokens.__getitem__
        inner: TextConstraint
        if activation.triggers:
            inner = AfterTrigger(self._plain, activation.triggers, bytes_of)
        else:
            inner = self._plain()
        if not activation.reasoning_end or not (activation.in_reasoning or activation.reasoning_start_ids):
            return inner
        return AfterReasoning(inner, activation, bytes_of, self._line_breaks)

    def _plain(self) -> GrammarConstraint:
        return GrammarConstraint(self._matcher.copy(), len(self._line_breaks), self._time.add)
