"""Decode of many rows together, by batch caches with a length per row (`backend/engine/kv`).

mlx-lm's own BatchGenerator is made of the same cache operations (merge, extend, filter); docs/decisions
says why the driver around them is ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from backend.engine.batching.chunk import Model
from backend.engine.batching.emitted import Emitted
from backend.engine.batching.row import Row
from backend.engine.batching.verification import Draw, Verification
from backend.engine.kv.going_back import Pass
from backend.engine.kv.merging import alone, merged
from backend.engine.kv.ragged import RaggedKVCache
from backend.engine.kv.row_caches import copied, nbytes, own_cache, row_cache, separable
from backend.engine.loading.kv_cost import leaves
from backend.engine.waits import start, wait

# Rows that go unlike ways are moved to end together before they take so many columns more than the longest needs: less
# than a block, which the budget has for each row anyway.
MOST_STRAY = 128
# Unlike ends make a step a little dearer; to end them is a copy of all rows.
ALIGN_AFTER_STEPS = 128


class DecodeBatch(ABC):
    """Rows that take one token each a step. Engine thread only.

    Invariant: `rows[i]` is index i of every cache's batch axis. A lone row keeps its unmerged caches: that is
    mlx-lm's single-stream path, and the only one for models whose caches cannot be merged.

    Attributes:
        in_flight: The device works for the batch: any wait, whosever it is, may be told that this failed.
    """

    def __init__(self, model: Model, *, mergeable: bool) -> None:
        self._model = model
        self._mergeable = mergeable
        self._caches: list[Any] = []
        self._merged = False
        self._settled = True
        self._plain_steps = 0
        self.in_flight = False
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, rows: Sequence[Row]) -> None:
        """Take over the rows' caches; each row's `last_token` is fed by the next step.

        Raises whatever caches raise that cannot be batched together; the batch and the rows are as before then.
        """
        caches: list[list[Any]] = []
        for row in rows:
            assert row.caches is not None
            caches.append(row.caches)
        if not self.rows and len(caches) == 1:
            self._caches, self._merged = [alone(cache) for cache in caches[0]], False
        else:
            self._caches, self._merged = self._joined(caches), True
        for row in rows:
            row.caches = None
        self.rows.extend(rows)
        self._settled = False

    def _joined(self, caches: list[list[Any]]) -> list[Any]:
        if not self._mergeable:
            raise RuntimeError("this model's caches cannot be merged")
        if not self._merged:
            own = [[own_cache(cache) for cache in self._caches]] if self.rows else []
            return _merge([*own, *caches])
        # Into copies: where one layer fails, those before it must not have grown.
        grown = [copied(cache) for cache in self._caches]
        for mine, theirs in zip(grown, _merge(caches), strict=True):
            mine.extend(theirs)
        return grown

    @abstractmethod
    def step(self) -> list[Emitted]:
        """Feed every row's newest token and return the tokens that became known. An exception loses the batch."""

    def verify(self, drafts: Sequence[Sequence[int]]) -> Verification:
        """Feed every row's newest token and what may follow it; its tokens are drawn from what is returned.

        Nothing may be drawn ahead. An exception here or there loses the batch.

        Args:
            drafts: For each row, in their order, none or more tokens; one row at least has some.
        """
        width = 1 + max(map(len, drafts))
        fed = [[row.last_token, *draft] for row, draft in zip(self.rows, drafts, strict=True)]
        tokens = [[*row, *[0] * (width - len(row))] for row in fed]
        run = self._start_pass(tokens)
        draw, drawn = self._draw_from(run.logits, drafts)
        for row in self.rows:
            row.sampling.allowed()  # while the device computes
        wait(run.logits, self._states(), drawn)
        return Verification(run, self.rows, drafts, draw)

    def _start_pass(self, tokens: Sequence[Sequence[int]]) -> Pass:
        """Put a pass over `tokens` `[rows, width]` on the device, not waited for."""
        self._plain_steps = 0
        self._align()
        self._settled, self.in_flight = False, True
        run = Pass(self._model, self._caches, tokens)
        start(run.logits, self._states())
        return run

    @property
    def ahead(self) -> bool:
        """Whether tokens are drawn that are not emitted yet."""
        return False

    @abstractmethod
    def _draw_from(self, logits: mx.array, drafts: Sequence[Sequence[int]]) -> tuple[Draw, list[mx.array]]:
        """Draws from the logits of a pass over `drafts`, `[rows, width, vocab]`, and what is to be waited for first."""

    def collect(self) -> list[Emitted]:
        """Tokens that were drawn and are not emitted yet. An exception loses the batch."""
        return []

    def _align(self) -> None:
        """Have the rows end together again, where they stray too far or have been fed alike for long.

        Not within a pass: its mask is made before its first layer.
        """
        ragged = [leaf for leaf in leaves(self._caches) if isinstance(leaf, RaggedKVCache)]
        # Layers of a kind are all alike.
        kinds = {type(leaf): leaf for leaf in ragged}.values()
        if any(leaf.stray > MOST_STRAY for leaf in kinds) or self._plain_steps == ALIGN_AFTER_STEPS:
            for leaf in ragged:
                leaf.align()

    def _forward(self, inputs: mx.array) -> mx.array:
        """Put one step of `inputs` `[rows]` on the device; logits `[rows, vocab]`, not waited for."""
        self._plain_steps += 1
        self._align()
        self._settled, self.in_flight = False, True
        logits = self._model(inputs[:, None], cache=self._caches)[:, -1, :]
        start(logits, self._states())
        for row in self.rows:
            row.covered += 1
        return logits

    def _states(self) -> list[Any]:
        return [cache.state for cache in self._caches]

    def settle(self) -> None:
        """Wait for everything of the batch, merged arrays too, so that no later wait is told of its failures.

        An exception loses the batch.
        """
        if self._settled:
            return
        self._wait()
        self._settled, self.in_flight = True, False

    def _wait(self) -> None:
        wait(self._states())

    @property
    def can_part(self) -> bool:
        """Whether a row can go on in another batch with what `view` gives."""
        return not self._merged or separable(self._caches)

    def view(self, row: Row) -> list[Any]:
        """The row's caches as lazy views of the settled batch, valid until the next change of the batch."""
        if not self._merged:
            return [own_cache(cache) for cache in self._caches]
        index = self.rows.index(row)
        return [row_cache(cache, index) for cache in self._caches]

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows and their KV; unknown rows are ignored."""
        gone = {id(row) for row in rows}
        keep = [index for index, row in enumerate(self.rows) if id(row) not in gone]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in keep]
        self._settled = False
        if not keep:
            self._caches, self._merged = [], False
        elif len(keep) == 1 and separable(self._caches):
            # No mask and no padding from here on; the first step copies the row out of the batch's arrays.
            self._caches, self._merged = [alone(row_cache(cache, keep[0])) for cache in self._caches], False
        else:
            for cache in self._caches:
                cache.filter(keep)

    def nbytes(self) -> int:
        """Bytes of live KV, padding included."""
        return nbytes(self._caches)


def _merge(caches: list[list[Any]]) -> list[Any]:
    return [merged(layer) for layer in zip(*caches, strict=True)]
