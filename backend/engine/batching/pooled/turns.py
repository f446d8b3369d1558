"""The rows whose answers are numbers, in the order of their turns, and what runs of them next."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from backend.engine.batching.chunk import Model
from backend.engine.batching.pooled.results import Computed
from backend.engine.batching.pooled.shapes import Shapes, plan_batch
from backend.engine.batching.pooled.units import Part, TailRun, TextBatch, Unit
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import LEAST_CHUNK
from backend.engine.loading.loaded import Backbone
from backend.engine.work import Embed, Tails


@dataclass(slots=True, kw_only=True)
class Turns:
    """Engine thread only. Invariant: each text and tail of a row here is computed, in one unit, or left.

    Args:
        shapes: Of passes over texts.
        scores: Of a tail's pass, the most query tokens times key tokens; None where nothing bounds them.

    Attributes:
        open: Rows with what is computed of them.
    """

    model: Model
    backbone: Backbone | str
    vocab_size: int
    chunk: int
    shapes: Shapes
    scores: int | None = None
    open: list[Computed] = field(default_factory=list[Computed])

    def find(self, row: Row) -> Computed | None:
        """What is computed of a row; None where it is not here."""
        return next((computed for computed in self.open if computed.row is row), None)

    def remove(self, row: Row) -> None:
        """Let a row go."""
        self.open = [computed for computed in self.open if computed.row is not row]

    @property
    def pads(self) -> bool:
        """Whether the model is known to take padding on the right."""
        return isinstance(self.backbone, Backbone) and self.backbone.padded

    @property
    def first(self) -> Computed | None:
        """Whose turn it is; None where nothing is left."""
        return next((computed for computed in self.open if computed.left), None)

    def claim(self, first: Computed) -> Unit:
        """What runs next of this row, with what of others goes together with it. Raises what the model does."""
        work = first.row.submit.work
        unit = self._tail(first, work) if isinstance(work, Tails) else self._texts(first)
        self._each(unit, Computed.claim)
        return unit

    def give_back(self, unit: Unit) -> None:
        """A unit does not run: what it has is left."""
        self._each(unit, Computed.give_back)

    def runs(self, unit: Unit) -> None:
        """Its rows have had their turn."""
        had = {id(part.row) for part in unit.parts}
        self.open.sort(key=lambda computed: id(computed.row) in had)

    def _each(self, unit: Unit, then: Callable[[Computed, int], None]) -> None:
        for part in unit.parts:
            computed = self.find(part.row)
            if computed is not None:  # else it has left meanwhile
                then(computed, part.index)

    def _tail(self, computed: Computed, work: Tails) -> Unit:
        row, index = computed.row, computed.left[0]
        keys = row.covered + len(work.tails[index].feed)
        bound = self.chunk if self.scores is None else max(LEAST_CHUNK, self.scores // max(1, keys))
        return TailRun(
            parts=[Part(row=row, index=index)],
            tail=work.tails[index],
            model=self.model,
            chunk=min(self.chunk, bound),
            vocab_size=self.vocab_size,
            yes_no=work.yes_no,
            shapes=self.shapes if self.pads else replace(self.shapes, few=False),
            room=self.shapes.longest - row.covered,
        )

    def _texts(self, first: Computed) -> Unit:
        backbone, work = self.backbone, first.row.submit.work
        assert isinstance(backbone, Backbone)
        assert isinstance(work, Embed)
        waiting = [
            (computed.row, index, other.texts[index])
            for computed in (first, *(one for one in self.open if one is not first))
            if isinstance(other := computed.row.submit.work, Embed) and other.pooling == work.pooling
            for index in computed.left
        ]
        chosen = plan_batch([len(tokens) for _, _, tokens in waiting], self.shapes) if self.pads else [0]
        return TextBatch(
            parts=[Part(row=waiting[index][0], index=waiting[index][1]) for index in chosen],
            tokens=[waiting[index][2] for index in chosen],
            pooling=work.pooling,
            backbone=backbone,
            shapes=self.shapes,
            chunk=self.chunk,
        )
