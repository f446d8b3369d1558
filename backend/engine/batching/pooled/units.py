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
from backend.engine.batching.pooled.shapes import Shapes
from backend.engine.batching.pooled.texts import padded, picked
from backend.engine.batching.prefix_cache import CUT_BY_TOKEN
from backend.engine.batching.row import Row
from backend.engine.kv.row_caches import copied
from backend.engine.loading.backbone import caches_for_one_pass
from backend.engine.loading.loaded import Backbone
from backend.engine.waits import known
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

    Attributes:
        ran: A pass of it has been computed.
    """

    parts: list[Part]
    tokens: list[NDArray[np.int32]]
    pooling: Pooling
    backbone: Backbone
    shapes: Shapes
    chunk: int
    caches: list[Any] = field(init=False)
    ran: bool = False
    _done: int = 0
    _lengths: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        # What ends in one pass leaves nothing that anybody would read.
        at_once = len(self.tokens) > 1 or len(self.tokens[0]) <= self.chunk
        self.caches = caches_for_one_pass(self.backbone) if at_once else self.backbone.new_cache()

    @property
    def due(self) -> int:
        """See `Unit`."""
        rows, columns = self._shape(self._end)
        return rows * columns

    @property
    def _end(self) -> int:
        """Of the next pass."""
        longest = max(map(len, self.tokens))
        return longest if len(self.tokens) > 1 else min(longest, self._done + self.chunk)

    def _shape(self, end: int) -> tuple[int, int]:
        count, columns = len(self.tokens), end - self._done
        # Padding between two chunks would be part of the text.
        if not columns or not self.backbone.padded or end < max(map(len, self.tokens)):
            return count, columns
        most = self.shapes.longest - self._done
        return self.shapes.rows(count), max(columns, min(self.shapes.columns(columns), most))

    def begin(self) -> Pass:
        """See `Unit`."""
        end, longest = self._end, max(map(len, self.tokens))
        rows = padded([tokens[self._done : end] for tokens in self.tokens], self._shape(end))
        lengths = [min(len(tokens), end) - self._done for tokens in self.tokens]
        wanted = end == longest or self.pooling != "last"
        self._done, self._lengths = end, lengths

        def read(hidden: mx.array) -> mx.array:
            return picked(hidden, lengths, self.pooling)

        return Pass(self.backbone.forward, self.caches, rows, read=read if wanted else None, counted=sum(lengths))

    def take(self, output: Any) -> None:
        """See `Unit`."""
        self.ran = True
        if output is None:
            return
        for part, length, numbers in zip(self.parts, self._lengths, known(output), strict=False):
            part.pieces.append((numbers[:length] if self.pooling == "none" else numbers[None]).copy())


@dataclass(slots=True, kw_only=True)
class TailRun:
    """One tail over its row's prompt: over its own layer caches where these can be cut back, over copies of the others.

    Args:
        model: Gives logits.
        shapes: Where few are wanted, the last piece is padded on the right.
        room: Tokens that the context has behind the prompt.
        yes_no: Two ids whose logits after the last token are wanted; None wants the targets' log-probabilities.
    """

    parts: list[Part]
    tail: Tail
    model: Callable[..., mx.array]
    chunk: int
    vocab_size: int
    yes_no: tuple[int, int] | None
    shapes: Shapes
    room: int
    caches: list[Any] = field(init=False)
    _pieces: list[tuple[int, int, bool]] = field(init=False)
    _few: bool = field(init=False)
    _most: int = field(init=False)
    _fed: int = 0

    def __post_init__(self) -> None:
        own = self.parts[0].row.caches
        assert own is not None
        self.caches = [cache if _cuttable(cache) else copied(cache) for cache in own]
        wanted = len(self.tail.targets) if self.yes_no is None else 1
        self._most = min(self.chunk, max(1, LOGITS_BYTES // (8 * self.vocab_size)))
        # Of what cannot be cut back, padding would be part of the state.
        self._few = self.shapes.few and all(map(_cuttable, own))
        rounded = self.shapes.whole if self._few else None
        self._pieces = pieces(len(self.tail.feed), wanted, chunk=self.chunk, most=self._most, rounded=rounded)

    @property
    def due(self) -> int:
        """See `Unit`."""
        return self._pieces[0][1] - self._pieces[0][0] if self._pieces else 0

    def begin(self) -> Pass:
        """See `Unit`."""
        start, end, wanted = self._pieces.pop(0)
        count, columns = end - start, end - start
        if self._few and not self._pieces:
            columns = max(count, min(self.shapes.columns(count), self._most, self.room - start))
        self._fed = start + columns
        tokens = padded([self.tail.feed[start:end]], (1, columns))
        read = self._reader(start, end) if wanted else None
        return Pass(self.model, self.caches, tokens, read=read, counted=count)

    def take(self, output: Any) -> None:
        """See `Unit`."""
        if output is not None:
            self.parts[0].pieces.append(known(output).copy())

    def cut_back(self) -> None:
        """Leave the row's caches as they were before the tail."""
        for cache in filter(_cuttable, self.caches):
            cache.trim(self._fed)

    def _reader(self, start: int, end: int) -> Callable[[mx.array], mx.array]:
        if self.yes_no is not None:
            both = mx.array(self.yes_no)
            return lambda logits: logits[0, end - start - 1].astype(mx.float32)[both]
        first = len(self.tail.feed) - len(self.tail.targets)
        skipped = max(0, first - start)
        targets = mx.array(self.tail.targets[start + skipped - first : end - first])

        def logprobs(logits: mx.array) -> mx.array:
            numbers = logits[0, skipped : end - start].astype(mx.float32)
            chosen = mx.take_along_axis(numbers, targets[:, None], axis=-1)[:, 0]
            return chosen - mx.logsumexp(numbers, axis=-1)

        return logprobs


def _cuttable(cache: Any) -> bool:
    return type(cache).__name__ in CUT_BY_TOKEN


def pieces(
    length: int, wanted: int, *, chunk: int, most: int, rounded: Callable[[int], int] | None = None
) -> list[tuple[int, int, bool]]:
    """The passes of a tail: `[start, end)` of its tokens, and whether logits are wanted of them.

    Args:
        wanted: Tokens at the end whose logits are wanted.
        chunk: Tokens of a pass, at most.
        most: Tokens of a pass with logits, at most.
        rounded: What may come before those whose logits are wanted, where not every number may.
    """
    most = min(most, chunk)
    first = length - max(wanted, min(length, ENDING, most))
    first = first if rounded is None else rounded(first)
    plain = [(start, min(start + chunk, first), False) for start in range(0, first, chunk)]
    return plain + [(start, min(start + most, length), True) for start in range(first, length, most)]


def chance(logits: Sequence[float]) -> float:
    """Of the first of two tokens against the second, in float64."""
    apart = logits[0] - logits[1]
    # The smaller of the two odds, which never overflows.
    odds = math.exp(-abs(apart))
    return (1.0 if apart >= 0 else odds) / (1.0 + odds)
