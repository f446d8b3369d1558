"""Rows for which a draft model guesses together."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from backend.engine.batching.batch import MOST_STRAY
from backend.engine.batching.chunk import Model
from backend.engine.batching.drafting.reader import Reader
from backend.engine.kv.going_back import Pass
from backend.engine.kv.merging import merged
from backend.engine.kv.ragged import RaggedKVCache
from backend.engine.kv.row_caches import copied, nbytes, row_cache
from backend.engine.loading.kv_cost import leaves

Draw = Callable[[mx.array], mx.array]
"""From logits `[rows, vocab]` a token of each row, `[rows]`."""


class Drafts(NamedTuple):
    """What was drafted, not waited for.

    Attributes:
        tokens: `[rows, n]`.
        confidences: The model's own probability of each, float32 `[rows, n]`.
    """

    tokens: mx.array
    confidences: mx.array


class Lane:
    """Engine thread only. An exception anywhere leaves it without use.

    Invariant: `readers[i]` is index i of every cache's batch axis. What keeps every token goes back to before a wrong
    guess by arithmetic; where there are states too, which cannot, all guesses are taken back and those that were right
    are read once more.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._caches: list[Any] = []
        self._before: list[Any] = []  # the states as they were before the guesses
        self.readers: list[Reader] = []

    def join(self, readers: Sequence[Reader]) -> None:
        """Take over the caches of rows that were read."""
        self._go_back()
        rows: list[list[Any]] = []
        for reader in readers:
            assert reader.caches is not None
            rows.append(reader.caches)
            reader.caches = None
        joining = [merged(layer) for layer in zip(*rows, strict=True)]
        if self.readers:
            for mine, theirs in zip(self._caches, joining, strict=True):
                mine.extend(theirs)
        else:
            self._caches = joining
        self.readers.extend(readers)

    def leave(self, readers: Sequence[Reader], *, keeping: bool) -> None:
        """Drop rows; where they are kept, each has caches of its own afterwards."""
        self._go_back()
        keep = [index for index, reader in enumerate(self.readers) if reader not in readers]
        if keeping:
            for index, reader in enumerate(self.readers):
                if reader in readers:
                    reader.caches = [row_cache(cache, index) for cache in self._caches]
        self.readers = [self.readers[index] for index in keep]
        if not keep:
            self._caches = []
        for cache in self._caches:
            cache.filter(keep)

    def view(self, reader: Reader) -> list[Any]:
        """A row's caches of exactly its first `covered` tokens, lazy, valid until the next change."""
        self._go_back()
        index = self.readers.index(reader)
        return [row_cache(cache, index) for cache in self._caches]

    def draft(self, count: int, draw: Draw) -> Drafts:
        """Read what the rows have had since, and guess the next `count` tokens of each; not waited for.

        Every row has had a token at least since the last time.
        """
        self._go_back()
        self._align()
        logits = self._read()
        self._before = [copied(cache) for cache in self._states()]
        tokens: list[mx.array] = []
        confidences: list[mx.array] = []
        for place in range(count):
            drawn = draw(logits)
            tokens.append(drawn)
            picked = mx.take_along_axis(logits, drawn[:, None], axis=-1).squeeze(-1).astype(mx.float32)
            confidences.append(mx.exp(picked - mx.logsumexp(logits.astype(mx.float32), axis=-1)))
            if place + 1 < count:
                logits = self._model(drawn[:, None], cache=self._caches)[:, -1]
        return Drafts(mx.stack(tokens, axis=1), mx.stack(confidences, axis=1))

    def fed(self, tokens: Sequence[Sequence[int]]) -> None:
        """These were drafted, for each row; all but the last were fed."""
        for reader, drafted in zip(self.readers, tokens, strict=True):
            reader.fed = list(drafted[:-1])

    def arrays(self) -> list[Any]:
        """All that the caches hold."""
        return [cache.state for cache in self._caches]

    def nbytes(self) -> int:
        """Bytes of keys and values, padding included."""
        return nbytes(self._caches)

    def _read(self) -> mx.array:
        """Feed each row the tokens that it has and the model has not read; logits `[rows, vocab]` behind the last."""
        unread = [reader.tokens(reader.covered, reader.known).tolist() for reader in self.readers]
        lengths = [len(tokens) for tokens in unread]
        width = max(lengths)
        run = Pass(self._model, self._caches, [[*tokens, *[0] * (width - len(tokens))] for tokens in unread])
        logits = run.logits[mx.arange(len(lengths)), mx.array(lengths) - 1]
        run.keep(lengths)
        for reader, length in zip(self.readers, lengths, strict=True):
            reader.covered += length
        return logits

    def _go_back(self) -> None:
        """To what the rows have drawn."""
        back: list[int] = []
        for reader in self.readers:
            right = 0 if self._before else reader.right()
            back.append(len(reader.fed) - right)
            reader.covered += right
            reader.fed = []
        if not any(back):
            return
        for cache, state in zip(self._states(), self._before, strict=True):
            cache.cache = state.cache
        for leaf in leaves(self._caches):
            if isinstance(leaf, RaggedKVCache):
                leaf.rewind(back)

    def _align(self) -> None:
        ragged = [leaf for leaf in leaves(self._caches) if isinstance(leaf, RaggedKVCache)]
        if any(leaf.stray > MOST_STRAY for leaf in ragged):
            for leaf in ragged:
                leaf.align()

    def _states(self) -> list[Any]:
        return [leaf for leaf in leaves(self._caches) if not isinstance(leaf, RaggedKVCache)]
