"""The decode batch for CPUs: the host waits for each step's logits and samples them itself."""

from collections.abc import Sequence
from functools import cache

import mlx.core as mx

from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.chunk import Model
from backend.engine.batching.emitted import Emitted, accept_sampled
from backend.engine.batching.verification import Draw
from backend.engine.sampling.host.sampler import HostSampler, numbers
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import Sampled
from backend.engine.waits import wait


class HostBatch(DecodeBatch):
    """Emits a token as soon as the logits that it is drawn from are there; nothing is computed in vain."""

    def __init__(self, model: Model, sampler: HostSampler, *, mergeable: bool) -> None:
        super().__init__(model, mergeable=mergeable)
        self._sampler = sampler

    def step(self) -> list[Emitted]:
        """Feed every row's last token and emit its next."""
        logits = self._forward(mx.array([row.last_token for row in self.rows]))
        for row in self.rows:
            row.sampling.allowed()  # grammars work out their masks while the device computes; the sampler asks again
        wait(logits, self._states())
        self._settled, self.in_flight = True, False
        sampled = self._sampler.sample(logits, [row.sampling for row in self.rows])
        return [accept_sampled(row, index, sampled) for index, row in enumerate(self.rows)]

    def _draw_from(self, logits: mx.array, drafts: Sequence[Sequence[int]]) -> tuple[Draw, list[mx.array]]:
        del drafts
        # All at once: to have MLX cut and hand over each place takes longer than a greedy draw from it.
        values = cache(lambda: numbers(logits))

        def draw(place: int, going: Sequence[int], rows: Sequence[RowSampling]) -> Sampled:
            return self._sampler.draw([values()[index, place] for index in going], rows)

        return draw, []
