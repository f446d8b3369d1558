"""The draws of a pass over drafted tokens, of all its places at once: each as if what was drafted before were drawn."""

import copy
from collections import deque
from collections.abc import Sequence

import mlx.core as mx

from backend.engine.sampling.device.sampler import DeviceSampler, LazySample
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import RowLogprobs, Sampled
from backend.engine.waits import start

# What a draw with restrictions holds at its peak for each token of the vocabulary, beside the logits that it is given.
DRAW_BYTES = 48
# What draws that are put together may hold; all of a pass over a few rows, or over a small vocabulary.
MOST_BYTES = 256 << 20


def bytes_of_places(vocab_size: int, rows: int, depth: int) -> int:
    """What the draws of a pass over `depth` drafted tokens of each row hold at most, beside its logits."""
    return DRAW_BYTES * vocab_size * min(rows * (depth + 1), _most_together(vocab_size, rows))


class PlaceDraws:
    """Put on the device at once, and waited for by nobody here but for grammars. Engine thread only.

    A row with a grammar draws place by place: what it may draw is known once the token before is. Of other rows what is
    drawn behind a wrong draft is for nothing, and is never asked for.

    Args:
        logits: Of the pass, `[rows, width, vocab]`, lazy or not.
        rows: None of which has anything drawn ahead.
        drafts: For each row fewer tokens than `width`.
    """

    def __init__(
        self, sampler: DeviceSampler, logits: mx.array, rows: Sequence[RowSampling], drafts: Sequence[Sequence[int]]
    ) -> None:
        self._sampler, self._logits = sampler, logits
        asked = [
            (index, place)
            for index, (row, draft) in enumerate(zip(rows, drafts, strict=True))
            if not row.needs_last_token
            for place in range(len(draft) + 1)
        ]
        self._at = {place: at for at, place in enumerate(asked)}
        self._together = _most_together(logits.shape[-1], len(rows))
        self._lazy: list[LazySample] = []
        for first in range(0, len(asked), self._together):
            places = asked[first : first + self._together]
            several = [_ahead(rows[index], drafts[index], place) for index, place in places]
            self._lazy.append(sampler.sample_lazy(_chosen(logits, places), several))
            # Each by itself: what one of them holds is free before the next.
            start(self._lazy[-1].arrays())
        self._drawn: list[Sampled] = []

    def arrays(self) -> list[mx.array]:
        """All that is to be waited for before anything is drawn."""
        return [array for lazy in self._lazy for array in lazy.arrays()]

    def draw(self, place: int, going: Sequence[int], rows: Sequence[RowSampling]) -> Sampled:
        """The tokens of some rows at a place, each of which has drawn what was drafted before; waits for grammars."""
        if not self._drawn:
            self._drawn = [lazy.read() for lazy in self._lazy]
        made = Sampled(tokens=[0] * len(going), logprobs=list[RowLogprobs | None]([None]) * len(going))
        apart = [at for at, index in enumerate(going) if (index, place) not in self._at]
        for at, index in enumerate(going):
            if at not in apart:
                piece, source = divmod(self._at[index, place], self._together)
                _take(made, at, self._drawn[piece], source)
        if apart:
            logits = _chosen(self._logits, [(going[at], place) for at in apart])
            drawn = self._sampler.sample_lazy(logits, [rows[at] for at in apart]).collect()
            for source, at in enumerate(apart):
                _take(made, at, drawn, source)
        return made


def _most_together(vocab_size: int, rows: int) -> int:
    """Tokens that are drawn together; one of each row in any case, as in a step."""
    return max(rows, MOST_BYTES // (DRAW_BYTES * vocab_size))


def _ahead(row: RowSampling, draft: Sequence[int], place: int) -> RowSampling:
    """The row as it is going to be once the first `place` drafted tokens are drawn; the row itself stays as it is."""
    ahead = copy.copy(row)
    ahead.drawn_ahead = deque((draft, n) for n in range(place))
    return ahead


def _chosen(logits: mx.array, places: Sequence[tuple[int, int]]) -> mx.array:
    """`[len(places), vocab]`."""
    count, width, vocab = logits.shape
    if len(places) == count * width:
        return logits.reshape(count * width, vocab)
    rows, columns = zip(*places, strict=True)
    return logits[mx.array(rows), mx.array(columns)]


def _take(made: Sampled, at: int, drawn: Sampled, source: int) -> None:
    made.tokens[at], made.logprobs[at] = drawn.tokens[source], drawn.logprobs[source]
    if source in drawn.errors:
        made.errors[at] = drawn.errors[source]
