"""The decode batch for GPUs: one step ahead of the host, so that the device never waits for Python."""

from collections.abc import Sequence

import mlx.core as mx

from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.chunk import Model
from backend.engine.batching.emitted import Emitted, accept_sampled
from backend.engine.batching.row import Row
from backend.engine.batching.verification import Draw
from backend.engine.sampling.device.places import PlaceDraws
from backend.engine.sampling.device.sampler import DeviceSampler, LazySample
from backend.engine.waits import start, wait


class DeviceBatch(DecodeBatch):
    """Feeds drawn tokens to the model before the host has read them, as mlx-lm's GenerationBatch does.

    A token is emitted once the step that feeds it is on the device. While that runs, the host reads the token,
    brings penalties and grammars up to date with it, and puts the next draw behind the step: so every draw knows
    the whole history, and no grammar costs the others their step ahead. A row that ends has been fed once too often;
    its KV then covers its last token.
    """

    def __init__(self, model: Model, sampler: DeviceSampler, *, mergeable: bool) -> None:
        super().__init__(model, mergeable=mergeable)
        self._sampler = sampler
        self._drawn: LazySample | None = None
        self._drawn_rows: list[Row | None] = []  # None: left since

    def step(self) -> list[Emitted]:
        """Feed every row's newest token and emit those of the step before; none for rows that just joined."""
        logits = self._forward(self._inputs())
        known = self._read()
        self._drawn = self._sampler.sample_lazy(logits, [row.sampling for row in self.rows])
        self._drawn_rows = list(self.rows)
        start(self._drawn.arrays())
        return known

    @property
    def ahead(self) -> bool:
        """Whether tokens are drawn that are not emitted yet."""
        return self._drawn is not None

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows, their KV and what was drawn for them: one that comes back begins with its last token."""
        super().leave(rows)
        gone = {id(row) for row in rows}
        self._drawn_rows = [None if row is None or id(row) in gone else row for row in self._drawn_rows]
        for row in rows:
            row.sampling.drawn_ahead.clear()
        if not self.rows:
            self._drawn, self._drawn_rows = None, []

    def _inputs(self) -> mx.array:
        place = {id(row): index for index, row in enumerate(self._drawn_rows) if row is not None}
        drawn = [place[id(row)] for row in self.rows if id(row) in place]
        joined = [row.last_token for row in self.rows if id(row) not in place]
        parts: list[mx.array] = []
        if drawn and self._drawn is not None:
            whole = drawn == list(range(len(self._drawn_rows)))
            parts.append(self._drawn.tokens if whole else self._drawn.tokens[mx.array(drawn)])
        if joined:
            parts.append(mx.array(joined, dtype=mx.uint32))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _wait(self) -> None:
        wait(self._drawn.arrays() if self._drawn is not None else [], self._states())

    def collect(self) -> list[Emitted]:
        """Tokens that were drawn and are not emitted yet; the next step is fed them by the host."""
        self.settle()
        known = self._read()
        self._drawn, self._drawn_rows = None, []
        return known

    def _read(self) -> list[Emitted]:
        if self._drawn is None:
            return []
        sampled = self._drawn.collect()
        return [accept_sampled(row, index, sampled) for index, row in enumerate(self._drawn_rows) if row is not None]

    def _draw_from(self, logits: mx.array, drafts: Sequence[Sequence[int]]) -> tuple[Draw, list[mx.array]]:
        draws = PlaceDraws(self._sampler, logits, [row.sampling for row in self.rows], drafts)
        return draws.draw, draws.arrays()
