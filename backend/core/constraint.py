"""The batch's view of a grammar: which tokens may come next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the process that tries grammars out does without numpy
    import numpy as np
    from numpy.typing import NDArray

# Begins the error of a constraint whose next mask is too dear, rather than wrong.
OVER_LIMIT = "over a limit: "


class Constraint(Protocol):
    """One answer's position in its grammar. Engine thread only; never raises inside a step.

    `mask` is asked once a step before sampling, `advance` told each sampled token after. `forced` and `valid` look
    ahead and change nothing: an answer is the same whether or not they are asked.
    """

    def mask(self) -> "NDArray[np.uint32] | None":
        """Allowed tokens, bit `t % 32` of word `t // 32`, shape `[ceil(vocab / 32)]`; None allows all."""
        ...

    def advance(self, token: int) -> None:
        """Move past a sampled token."""
        ...

    def forced(self, most: int) -> Sequence[int]:
        """Up to `most` tokens that spell what must come next, as others may; empty where there is a choice."""
        ...

    def valid(self, tokens: Sequence[int]) -> int:
        """How many of these tokens are allowed, each after those before it; fewer where only going there would tell."""
        ...

    @property
    def finished(self) -> bool:
        """The grammar is complete and nothing but the end may follow."""
        ...

    @property
    def error(self) -> str | None:
        """Why the constraint cannot go on, in one line, or None."""
        ...
