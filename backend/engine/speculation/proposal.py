"""What a drafter proposes."""

from dataclasses import dataclass

from backend.config import Drafter

__all__ = ["Drafter", "Proposal"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens that may come next in one row.

    Attributes:
        tokens: One or more.
        chances: For each token the estimated probability that it and all before it are the ones that are drawn; never
            rises.
    """

    tokens: tuple[int, ...]
    drafter: Drafter
    chances: tuple[float, ...]

    def cut(self, most: int) -> "Proposal":
        """The first `most` tokens, 1 or more."""
        if most >= len(self.tokens):
            return self
        return Proposal(self.tokens[:most], self.drafter, self.chances[:most])
