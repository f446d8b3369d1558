"""In which form a row holds its keys and values, at every length. Pure."""

from dataclasses import dataclass

# Of a scale, and of a bias, which have the type of the keys.
HALF_BYTES = 2


@dataclass(frozen=True, slots=True)
class KVFormat:
    """Codes instead of numbers from a length on: mlx's affine quantisation of each head's features, group by group.

    Attributes:
        bits: Of a code.
        group_size: Features that share a scale and a bias.
        start: A row holds numbers as long as it covers fewer tokens, and codes for all of them from then on.
    """

    bits: int
    group_size: int
    start: int = 0

    def __str__(self) -> str:
        return f"{self.bits}/{self.group_size}" + (f" from {self.start}" if self.start else "")

    def is_codes(self, covered: int) -> bool:
        """Whether a row that covers so many tokens holds codes."""
        return covered >= self.start

    def share(self) -> float:
        """Bytes of codes as a fraction of those of 16-bit numbers, scales and biases of 16 bits included."""
        return (self.bits / 8 + 2 * HALF_BYTES / self.group_size) / HALF_BYTES
