"""The rows whose answers are numbers: whose texts or tail runs next, and how each row ends."""

from collections.abc import Callable
from dataclasses import dataclass, field

from backend.core.errors import InternalFault, WorkerError
from backend.core.pooled import PooledResult
from backend.engine.batching.chunk import Model
from backend.engine.batching.finishing import Finisher, internal_fault
from backend.engine.batching.pace import Pace
from backend.engine.batching.pooled.passing import Pass
from backend.engine.batching.pooled.results import Computed
from backend.engine.batching.pooled.texts import plan_batch
from backend.engine.batching.pooled.units import Part, TailRun, TextBatch, Unit
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import LEAST_CHUNK
from backend.engine.kv import row_caches
from backend.engine.loading.failures import FOREIGN
from backend.engine.loading.loaded import Backbone
from backend.engine.picture import Counters
from backend.engine.sampling.sampled import NOT_FINITE
from backend.engine.waits import drain
from backend.engine.work import MOST_BATCHED, Embed, Tails


@dataclass(slots=True, kw_only=True)
class Pooled:
    """Engine thread only. Invariant: a row is here while its texts or tails run, and owed an end.

    Nothing of it is on the device between two calls: each of its waits is for its own work alone, so that a failure
    there is that of the rows whose work it was, and somebody else's never theirs.

    Args:
        settle: Waits for all that others have on the device, each under the guard of its owner.
        meanwhile: What can be done before others are held up.
        scores: Of a tail's pass, the most query tokens times key tokens; None where nothing bounds them.

    Attributes:
        open: Rows with what is computed of them, in the order of their turns.
        unit: What runs now; between two passes, or some layers into one.
    """

    model: Model
    backbone: Backbone | str
    vocab_size: int
    chunk: int
    pace: Pace
    counters: Counters
    finisher: Finisher
    clock: Callable[[], float]
    settle: Callable[[], None]
    meanwhile: Callable[[], None]
    scores: int | None = None
    open: list[Computed] = field(default_factory=list[Computed])
    unit: Unit | None = None
    running: Pass | None = None

    @property
    def rows(self) -> list[Row]:
        """Those that are here."""
        return [computed.row for computed in self.open]

    @property
    def busy(self) -> bool:
        """Whether `run` would do anything."""
        return bool(self.open)

    def nbytes(self) -> int:
        """Bytes of keys and values here."""
        own = [cache for row in self.rows for cache in row.caches or ()]
        held = {id(cache) for cache in own}
        more = [] if self.unit is None else [cache for cache in self.unit.caches if id(cache) not in held]
        return row_caches.nbytes([*own, *more])

    def admit(self, row: Row) -> None:
        """Take a row with texts, or one with tails whose prompt is prefilled."""
        row.decoding_at = row.decoding_at or self.clock()
        self.open.append(Computed(row))
        self._end_complete()

    def remove(self, row: Row) -> None:
        """Let a row go; texts that run beside its own go on."""
        self.open = [computed for computed in self.open if computed.row is not row]
        row.caches = None
        if self.unit is not None and not any(self._find(part.row) for part in self.unit.parts):
            self.unit = self.running = None

    def abandon(self) -> None:
        """Forget every row, without a look at what they have."""
        self.open.clear()
        self.unit = self.running = None

    def run(self, *, streams: bool) -> None:
        """Run as long as those that stream, or may arrive, can wait; a chunk at most."""
        # Before: a model may wait for something in the middle of its pass. Nothing of others is begun in here.
        self.meanwhile()
        self.settle()
        ends_at, ran, began = self.clock() + self.pace.bound(streams=streams), 0, False
        while (tokens := self._due()) and (not ran or ran + tokens <= self.chunk):
            left = ends_at - self.clock()
            if began and (left <= 0 or self.pace.layers(tokens, left, left=1) < 1):
                return
            began = True
            running = self._begun()
            if running is not None:
                layers = self.pace.layers(tokens, left, left=running.layers - running.computed)
                self._slice(running, max(1, layers))
                ran += tokens if running.done else 0

    def _due(self) -> int:
        """Tokens of the pass that runs, or of the next; 0 when there is nothing to do."""
        while self.running is None and self.open:
            try:
                unit = self.unit = self.unit or self._next_unit()
            except FOREIGN as error:
                self._lose(error)
                continue
            if unit.due:
                return unit.due
            self._complete(unit)
        return self.running.tokens if self.running is not None else 0

    def _begun(self) -> Pass | None:
        """The pass that runs, or the next; None where its graph cannot be built. Nothing is begun that does not run."""
        if self.running is None:
            assert self.unit is not None
            try:
                self.running = self.unit.begin()
            except FOREIGN as error:
                self._lose(error)
        return self.running

    def _slice(self, running: Pass, layers: int) -> None:
        before, started = running.computed, self.clock()
        try:
            running.run(layers)
            if running.done:
                assert self.unit is not None
                self.unit.take(running.output)
        except FOREIGN as error:
            self._lose(error)
            return
        # The first layer's cache is there before that layer has computed anything else.
        if running.computed > 1:
            self.pace.took(running.tokens, running.computed - max(1, before), self.clock() - started)
        if running.done:
            self.counters.prefilled_tokens += running.counted
            self.running = None

    def _next_unit(self) -> Unit:
        """Of the row whose turn it is, with what of others goes together with it."""
        computed = self.open.pop(0)
        self.open.append(computed)
        work = computed.row.submit.work
        if isinstance(work, Tails):
            return self._tail(computed, work)
        return self._texts(computed)

    def _tail(self, computed: Computed, work: Tails) -> Unit:
        row, index = computed.row, computed.next
        keys = row.covered + len(work.tails[index].feed)
        bound = self.chunk if self.scores is None else max(LEAST_CHUNK, self.scores // max(1, keys))
        return TailRun(
            parts=[Part(row=row, index=index)],
            tail=work.tails[index],
            model=self.model,
            chunk=min(self.chunk, bound),
            vocab_size=self.vocab_size,
            yes_no=work.yes_no,
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
        lengths = [len(tokens) for _, _, tokens in waiting]
        chosen = plan_batch(lengths, min(self.chunk, MOST_BATCHED)) if backbone.padded else [0]
        return TextBatch(
            parts=[Part(row=waiting[index][0], index=waiting[index][1]) for index in chosen],
            tokens=[waiting[index][2] for index in chosen],
            pooling=work.pooling,
            backbone=backbone,
            chunk=self.chunk,
        )

    def _complete(self, unit: Unit) -> None:
        """The unit has come to its end: each row has what was computed for it."""
        self.unit = None
        if isinstance(unit, TailRun):
            unit.cut_back()
        for part in unit.parts:
            computed = self._find(part.row)
            if computed is not None:  # else it has left meanwhile
                computed.take(part)
        self._end_complete()

    def _end_complete(self) -> None:
        """End the rows of which all is computed."""
        for computed in [one for one in self.open if not one.left]:
            row = computed.row
            try:
                result: PooledResult | None = computed.result()
                error: WorkerError | None = None
            except FOREIGN as caught:
                result, error = None, internal_fault("result", row, caught)
            if result is None:
                self.finisher.fail(row, error or InternalFault(NOT_FINITE))
            else:
                self.finisher.compute(row, result, self.clock())
            self.remove(row)

    def _lose(self, error: BaseException) -> None:
        """A pass has failed: its rows end, and nothing of theirs is used again."""
        unit, self.unit, self.running = self.unit, None, None
        drain()
        assert unit is not None or self.open
        rows = [part.row for part in unit.parts] if unit is not None else [self.open[-1].row]
        fault = internal_fault("pass", rows[0] if len(rows) == 1 else None, error)
        for row in rows:
            self.finisher.fail(row, fault)
            self.remove(row)

    def _find(self, row: Row) -> Computed | None:
        return next((computed for computed in self.open if computed.row is row), None)
