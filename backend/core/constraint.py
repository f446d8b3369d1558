"""The batch's view of a grammar: which tokens may come next."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the process that tries grammars out does without numpy
    import numpy as np
    from numpy.typing import NDArray

# Begins the error of a constraint whose next mask is too dear, rather than wrong.
OVER_LIMIT = "over a limit: "


class Constraint(Protocol):
    """One answer's position in its grammar. Engine thread only; never raises inside a step.

    `mask` is asked once a step before sampling, `advance` told each sampled token after.
    """

    def mask(self) -> "NDArray[np.uint32] | None":
        """Allowed tokens, bit `t % 32` of word `t // 32`, shape `[ceil(vocab / 32)]`; None allows all."""
        ...

    def advance(self, token: int) -> None:
        """Move past a sampled token."""
        ...

    @property
    def finished(self) -> bool:
        """The grammar is complete and nothing but the end may follow."""
        ...

    @property
    def error(self) -> str | None:
        """Why the constraint cannot go on, in one line, or None."""
        ...
