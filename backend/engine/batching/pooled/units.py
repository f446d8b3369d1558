"""What runs in one go beside others: a batch of texts, or one tail of a row. Engine thread only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.core.pooled import Pooling
from backend.engine.batching.pooled.passing import Pass
from backend.engine.batching.pooled.texts import padded, picked
from backend.engine.batching.prefix_cache import CUT_BY_TOKEN
from backend.engine.batching.row import Row
from backend.engine.kv.row_caches import copied
from backend.engine.loading.loaded import Backbone
from backend.engine.waits import on_host
from backend.engine.work import Tail

Numbers = NDArray[np.float32]

# Of the logits of one pass, in float32 and twice: what a tail takes beyond its keys and values.
LOGITS_BYTES = 64 << 20
# Places whose logits are computed at a tail's end though only the last one's are wanted: a pass for that one alone
# would read all weights once more.
ENDING = 16


@dataclass(slots=True, kw_only=True)
class Part:
    """One row's share of a unit: its `index`-th text or tail, and what was computed for it so far."""

    row: Row
    index: int
    pieces: list[Numbers] = field(default_factory=list[Numbers])


class Unit(Protocol):
    """Its passes run one after another."""

    parts: list[Part]
    caches: list[Any]

    @property
    def due(self) -> int:
        """Tokens of the next pass, padding included; 0 after the last."""
        ...

    def begin(self) -> Pass:
        """The graph of the next pass. Raises what the model does."""
        ...

    def take(self, output: Any) -> None:
        """What the pass has given, evaluated."""
        ...


@dataclass(slots=True, kw_only=True)
class TextBatch:
    """Texts side by side, or one in chunks.

    Args:
        tokens: Of each part, `[n]`.
        chunk: Tokens of a pass over a single text, at most.
    """

    parts: list[Part]
    tokens: list[NDArray[np.int32]]
    pooling: Pooling
    backbone: Backbone
    chunk: int
    caches: list[Any] = field(init=False)
    _done: int = 0

    def __post_init__(self) -> None:
        self.caches = self.backbone.new_cache()

    @property
    def due(self) -> int:
        """See `Unit`."""
        return len(self.tokens) * (self._end - self._done)

    @property
    def _end(self) -> int:
        """Of the next pass."""
        longest = max(map(len, self.tokens))
        return longest if len(self.tokens) > 1 else min(longest, self._done + self.chunk)

    def begin(self) -> Pass:
        """See `Unit`."""
        end, longest = self._end, max(map(len, self.tokens))
        rows = padded([tokens[self._done : end] for tokens in self.tokens])
        lengths = [min(len(tokens), end) - self._done for tokens in self.tokens]
        wanted = end == longest or self.pooling != "last"
        self._done = end

        def read(hidden: mx.array) -> list[mx.array]:
            return [picked(hidden[row, :length], self.pooling) for row, length in enumerate(lengths)]

        return Pass(self.backbone.forward, self.caches, rows, read=read if wanted else None, counted=sum(lengths))

    def take(self, output: Any) -> None:
        """See `Unit`."""
        for part, array in zip(self.parts, output or (), strict=bool(output)):
            part.pieces.append(on_host(array).copy())


@dataclass(slots=True, kw_only=True)
class TailRun:
    """One tail over its row's prompt: over its own layer caches where these can be cut back, over copies of the others.

    Args:
        model: Gives logits.
        yes_no: Two ids whose logits after the last token are wanted; None wants the targets' log-probabilities.
    """

    parts: list[Part]
    tail: Tail
    model: Callable[..., mx.array]
    chunk: int
    vocab_size: int
    yes_no: tuple[int, int] | None
    caches: list[Any] = field(init=False)
    _pieces: list[tuple[int, int, bool]] = field(init=False)
    _fed: int = 0

    def __post_init__(self) -> None:
        own = self.parts[0].row.caches
        assert own is not None
        self.caches = [cache if _cuttable(cache) else copied(cache) for cache in own]
        wanted = len(self.tail.targets) if self.yes_no is None else 1
        most = max(1, LOGITS_BYTES // (8 * self.vocab_size))
        self._pieces = pieces(len(self.tail.feed), wanted, chunk=self.chunk, most=most)

    @property
    def due(self) -> int:
        """See `Unit`."""
        return self._pieces[0][1] - self._pieces[0][0] if self._pieces else 0

    def begin(self) -> Pass:
        """See `Unit`."""
        start, end, wanted = self._pieces.pop(0)
        self._fed = end
        tokens = self.tail.feed[start:end][None]
        read = self._reader(start, end) if wanted else None
        return Pass(self.model, self.caches, tokens, read=read, counted=end - start)

    def take(self, output: Any) -> None:
        """See `Unit`."""
        if output is not None:
            self.parts[0].pieces.append(on_host(output).copy())

    def cut_back(self) -> None:
        """Leave the row's caches as they were before the tail."""
        for cache in filter(_cuttable, self.caches):
            cache.trim(self._fed)

    def _reader(self, start: int, end: int) -> Callable[[mx.array], mx.array]:
        if self.yes_no is not None:
            both = mx.array(self.yes_no)
            return lambda logits: logits[0, -1].astype(mx.float32)[both]
        first = len(self.tail.feed) - len(self.tail.targets)
        skipped = max(0, first - start)
        targets = mx.array(self.tail.targets[start + skipped - first : end - first])

        def logprobs(logits: mx.array) -> mx.array:
            numbers = logits[0, skipped:].astype(mx.float32)
            chosen = mx.take_along_axis(numbers, targets[:, None], axis=-1)[:, 0]
            return chosen - mx.logsumexp(numbers, axis=-1)

        return logprobs


def _cuttable(cache: Any) -> bool:
    return type(cache).__name__ in CUT_BY_TOKEN


def pieces(length: int, wanted: int, *, chunk: int, most: int) -> list[tuple[int, int, bool]]:
    """The passes of a tail: `[start, end)` of its tokens, and whether logits are wanted of them.

    Args:
        wanted: Tokens at the end whose logits are wanted.
        chunk: Tokens of a pass, at most.
        most: Tokens of a pass with logits, at most.
    """
    most = min(most, chunk)
    first = length - max(wanted, min(length, ENDING, most))
    plain = [(start, min(start + chunk, first), False) for start in range(0, first, chunk)]
    return plain + [(start, min(start + most, length), True) for start in range(first, length, most)]


def chance(logits: Sequence[float]) -> float:
    """Of the first of two tokens against the second, in float64."""
    apart = logits[0] - logits[1]
    # The smaller of the two odds, which never overflows.
    odds = math.exp(-abs(apart))
    return (1.0 if apart >= 0 else odds) / (1.0 + odds)
