"""Where chunks end and whose turn it is. Pure: it sees sizes and decides, the engine thread carries it out."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# A waiting prompt gains on shorter ones by one token for every so many that others run, so none starves.
AGEING = 8
# A chunk that is halved to bound the memory of its scores is not halved below this.
LEAST_CHUNK = 32
# A state that cannot be cut by token is stored this often along a prompt.
SNAPSHOT_EVERY = 4096


def chunk_ends(n_tokens: int, chunk: int, boundaries: Sequence[int], *, scores: int | None = None) -> tuple[int, ...]:
    """Where a prompt's prefill chunks end, ascending, in `(0, n_tokens)`.

    Multiples of `chunk`, the given boundaries and `n_tokens - 1` (the last token is fed by the first decode
    step). They depend on the prompt alone, since on some models the split shows in the last bits of an answer.
    A one-token prompt has none.

    Args:
        scores: A chunk's tokens times the keys that it sees, at most: later chunks are halves of `chunk`, quarters and
            so on, but never fewer than `LEAST_CHUNK` tokens.
    """
    last = n_tokens - 1
    ends = {*_grid(last, chunk, scores), *(b for b in boundaries if 0 < b < last)}
    if last > 0:
        ends.add(last)
    return tuple(sorted(ends))


def _grid(last: int, chunk: int, scores: int | None) -> Iterator[int]:
    if scores is None:
        yield from range(chunk, last, chunk)
        return
    end = 0
    while True:
        while chunk // 2 >= LEAST_CHUNK and chunk * (end + chunk) > scores:
            chunk //= 2
        end += chunk
        if end >= last:
            return
        yield end


def next_end(ends: Sequence[int], covered: int) -> int:
    """The first chunk end beyond `covered`, or `covered` itself when none is left."""
    index = bisect_right(ends, covered)
    return ends[index] if index < len(ends) else covered


def snapshot_ends(n_tokens: int, boundaries: Sequence[int]) -> tuple[int, ...]:
    """Where along a prompt a state that cannot be cut by token is stored, but for its end."""
    return (*boundaries, *range(SNAPSHOT_EVERY, n_tokens, SNAPSHOT_EVERY))


@dataclass(frozen=True, slots=True)
class Prefilling:
    """A prompt as the policy sees it.

    Attributes:
        remaining: Tokens that it has to run yet, a part of a chunk by its layers.
        waited: Tokens that others ran since its last chunk.
    """

    remaining: float
    waited: float


def most_urgent(prompts: Sequence[Prefilling]) -> int:
    """Which prompt runs next.

    Shortest remaining work first, so that a short question does not sit behind a long document; ageing brings
    the long one its turn.
    """
    return min(range(len(prompts)), key=lambda index: prompts[index].remaining - prompts[index].waited / AGEING)


def waited_after(waited: float, ran: float, left: float) -> float:
    """What is left of a prompt's waiting once it ran `ran` of the `left` tokens of its chunk: nothing after all."""
    return waited * (1 - ran / left)
