"""Which texts run together, and the shape of their pass. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backend.engine.batching.group_cost import DeviceKind
from backend.engine.work import MOST_BATCHED

# What a further pass costs beside its tokens, in tokens. On two cores a pass of small models (0.1 to 3 million
# parameters) takes as long as 40 to 65 tokens in a batch. GPUs: not measured; a card reads bfloat16 weights in the time
# in which it computes 120 tokens or more, and the host's launches of a small model take longer than that.
PASS_TOKENS: Final[Mapping[DeviceKind, int]] = {"cpu": 48, "metal": 256, "cuda": 256}
# Of the texts that wait, those that are looked at for one batch: the nearest in length.
MOST_LOOKED_AT: Final = 64
_SHORTEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """The passes that texts may run in.

    Attributes:
        most: Tokens of a batch, padding included.
        apart: What a further pass costs beside its tokens, in tokens.
        few: Rows and their length are rounded up, so that some sixty shapes are all there are: for attention in half
            precision MLX has cuDNN make a plan for each new shape on CUDA, which takes the host longer than the pass.
        longest: No row is padded beyond this: a model may have no positions there.
    """

    most: int
    apart: int
    few: bool = False
    longest: int

    @classmethod
    def of(cls, kind: DeviceKind, *, chunk: int, context: int) -> "Shapes":
        """Those of a device, with prefill chunks of `chunk` tokens."""
        return cls(most=min(chunk, MOST_BATCHED), apart=PASS_TOKENS[kind], few=kind == "cuda", longest=context)

    def columns(self, longest: int) -> int:
        """Tokens of each row, padding included, where the longest text has so many."""
        return max(longest, min(_rounded(longest), self.longest)) if self.few else longest

    def whole(self, tokens: int) -> int:
        """The most of so many tokens that need no padding; where every shape may be, all."""
        if not self.few or tokens == self.columns(tokens):
            return tokens
        # The number below it in the series: from 3/4 of a power to a half of it, or from it to 3/4.
        above = _rounded(tokens)
        below = above * 3 // 4 if above == _power(above) else above * 2 // 3
        return below if below >= _SHORTEST else 0

    def rows(self, count: int) -> int:
        """Rows of a pass over so many texts: what is more is padding."""
        return _power(count) if self.few else count

    def size(self, count: int, longest: int) -> int:
        """Tokens of a pass, padding included."""
        return self.rows(count) * self.columns(longest)

    def fits(self, count: int, longest: int) -> bool:
        """Whether a batch may be so large; a text that is too long for any runs alone."""
        return count == 1 or self.size(count, longest) <= self.most


def _power(number: int) -> int:
    """The least power of two that is not below it."""
    return 1 << (number - 1).bit_length()


def _rounded(length: int) -> int:
    """The least power of two, or three quarters of one, that is not below it."""
    power = max(_SHORTEST, _power(length))
    return 3 * power // 4 if power > _SHORTEST and length <= 3 * power // 4 else power


def plan_batch(lengths: Sequence[int], shapes: Shapes) -> list[int]:
    """Which texts run with the first: its part of the cheapest division of those that wait into passes.

    Args:
        lengths: Tokens of each text that waits, in the order in which they are due.

    Returns:
        Indexes, the first among them, by length.
    """
    near = sorted(range(len(lengths)), key=lambda index: abs(lengths[index] - lengths[0]))[:MOST_LOOKED_AT]
    order = sorted(near, key=lambda index: (lengths[index], index))
    # Of the shortest `end` texts: the least cost, and where the last of their passes begins.
    costs, begins = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        least, best = costs[end - 1] + shapes.apart + shapes.size(1, longest), end - 1
        for begin in range(end - 2, -1, -1):
            if not shapes.fits(end - begin, longest):
                break
            cost = costs[begin] + shapes.apart + shapes.size(end - begin, longest)
            if cost < least:
                least, best = cost, begin
        costs.append(least)
        begins.append(best)
    end, first = len(order), order.index(0)
    while begins[end] > first:
        end = begins[end]
    return order[begins[end] : end]
