"""The plan of the next step's prefill. Pure: it sees sizes and returns a plan, the engine thread carries it out."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

# A waiting prompt gains on shorter ones by one chunk of tokens every this many steps, so none starves.
AGEING_STEPS = 8


def chunk_ends(n_tokens: int, chunk: int, boundaries: Sequence[int]) -> tuple[int, ...]:
    """Where a prompt's prefill chunks end, ascending, in `(0, n_tokens)`.

    Multiples of `chunk`, the given boundaries and `n_tokens - 1` (the last token is fed by the first decode
    step). They depend on the prompt alone, since on some models the split shows in the last bits of an answer.
    A one-token prompt has none.
    """
    last = n_tokens - 1
    ends = {*range(chunk, last, chunk), *(b for b in boundaries if 0 < b < last)}
    if last > 0:
        ends.add(last)
    return tuple(sorted(ends))


def next_end(ends: Sequence[int], covered: int) -> int:
    """The first chunk end beyond `covered`, or `covered` itself when none is left."""
    index = bisect_right(ends, covered)
    return ends[index] if index < len(ends) else covered


@dataclass(frozen=True, slots=True)
class Prefilling:
    """A prompt as the policy sees it.

    Attributes:
        chunks: Sizes of its remaining chunks, in order.
        waited_steps: Steps since it last ran a chunk.
    """

    chunks: tuple[int, ...]
    waited_steps: int


def plan_chunks(prompts: Sequence[Prefilling], budget: int, chunk: int) -> list[int]:
    """Which prompts run their next chunk in this step, in order; an index may appear several times.

    Shortest remaining work first, so that a short question does not sit behind a long document; ageing brings
    the long one its turn. The sum of the chunks stays within `budget` tokens, except that one chunk always runs.
    """

    def urgency(index: int) -> float:
        prompt = prompts[index]
        return sum(prompt.chunks) - chunk * prompt.waited_steps / AGEING_STEPS

    plan: list[int] = []
    spent = 0
    for index in sorted(range(len(prompts)), key=urgency):
        for size in prompts[index].chunks:
            if plan and spent + size > budget:
                return plan
            plan.append(index)
            spent += size
    return plan
