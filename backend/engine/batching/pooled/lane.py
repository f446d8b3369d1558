"""The rows whose answers are numbers: how their passes run, and how each row ends."""

from collections.abc import Callable
from dataclasses import dataclass

from backend.core.errors import InternalFault, WorkerError
from backend.core.pooled import PooledResult
from backend.engine.batching.finishing import Finisher, internal_fault
from backend.engine.batching.pace import Pace
from backend.engine.batching.pooled.passing import Pass
from backend.engine.batching.pooled.results import Computed
from backend.engine.batching.pooled.turns import Turns
from backend.engine.batching.pooled.units import TailRun, TextBatch, Unit
from backend.engine.batching.row import Row
from backend.engine.kv import row_caches
from backend.engine.loading.failures import FOREIGN
from backend.engine.picture import Counters
from backend.engine.sampling.sampled import NOT_FINITE
from backend.engine.waits import drain
from backend.engine.work import Embed


@dataclass(slots=True, kw_only=True)
class Pooled:
    """Engine thread only. Invariant: a row is here while its texts or tails run, and owed an end.

    Nothing of it is on the device between two calls: each of its waits is for its own work alone, so that a failure
    there is that of the rows whose work it was, and somebody else's never theirs.

    While a pass over texts runs, the host ends the rows of the one before and makes the graph of the next.

    Args:
        chunk: Tokens that run in one call, at most, where the first pass is not longer.
        settle: Waits for all that others have on the device, each under the guard of its owner.
        meanwhile: What can be done before others are held up.
        tell: Lets clients have what was posted.

    Attributes:
        unit: What runs now; between two passes, or some layers into one.
        given: Texts whose numbers are here and whose rows are not told. None between two calls.
        ahead: Texts that run next, and their graph. None between two calls.
        looks_ahead: Whether there are such.
        doubted: What the pass that runs gives is not to be trusted.
    """

    turns: Turns
    chunk: int
    pace: Pace
    counters: Counters
    finisher: Finisher
    clock: Callable[[], float]
    settle: Callable[[], None]
    meanwhile: Callable[[], None]
    tell: Callable[[], None]
    unit: Unit | None = None
    running: Pass | None = None
    given: TextBatch | None = None
    ahead: tuple[TextBatch, Pass] | None = None
    looks_ahead: bool = True
    doubted: bool = False

    @property
    def rows(self) -> list[Row]:
        """Those that are here."""
        return [computed.row for computed in self.turns.open]

    @property
    def busy(self) -> bool:
        """Whether `run` would do anything."""
        return bool(self.turns.open)

    def nbytes(self) -> int:
        """Bytes of keys and values here."""
        own = [cache for row in self.rows for cache in row.caches or ()]
        held = {id(cache) for cache in own}
        more = [] if self.unit is None else [cache for cache in self.unit.caches if id(cache) not in held]
        return row_caches.nbytes([*own, *more])

    def admit(self, row: Row) -> None:
        """Take a row with texts, or one with tails whose prompt is prefilled."""
        row.decoding_at = row.decoding_at or self.clock()
        self.turns.open.append(Computed(row))
        self._end_complete()

    def remove(self, row: Row) -> None:
        """Let a row go; texts that run beside its own go on."""
        self.turns.remove(row)
        row.caches = None
        if self.unit is not None and not any(self.turns.find(part.row) for part in self.unit.parts):
            self.unit = self.running = None

    def abandon(self) -> None:
        """Forget every row, without a look at what they have."""
        self.turns.open.clear()
        self.unit = self.running = self.given = self.ahead = None

    def run(self, *, streams: bool) -> None:
        """Run as long as those that stream, or may arrive, can wait; a chunk at most."""
        # Before: a model may wait for something in the middle of its pass. Nothing of others is begun in here.
        self.meanwhile()
        self.settle()
        ends_at, ran, began = self.clock() + self.pace.bound(streams=streams), 0, False
        while (tokens := self._due()) and (not ran or ran + tokens <= self.chunk):
            left = ends_at - self.clock()
            if began and (left <= 0 or self.pace.layers(tokens, left, left=1) < 1):
                break
            began = True
            running = self._begun()
            if running is not None:
                layers = self.pace.layers(tokens, left, left=running.layers - running.computed)
                self._slice(running, max(1, layers), room=self.chunk - ran - tokens)
                ran += tokens if running.done else 0
        self._hand_out()
        self._forget_unbegun()

    def _due(self) -> int:
        """Tokens of the pass that runs, or of the next; 0 when there is nothing to do."""
        while self.running is None:
            if self.unit is None and not self._take_next():
                return 0
            if self.running is None and self.unit is not None:
                if self.unit.due:
                    return self.unit.due
                self._complete(self.unit)
        return self.running.tokens

    def _take_next(self) -> bool:
        """Have the next unit, if there is one."""
        if self.ahead is not None:
            (self.unit, self.running), self.ahead = self.ahead, None
            self.turns.runs(self.unit)
        while self.unit is None and (first := self.turns.first) is not None:
            try:
                self.unit = self.turns.claim(first)
            except FOREIGN as error:
                self._lose([first.row], error)
        return self.unit is not None

    def _begun(self) -> Pass | None:
        """The pass that runs, or the next; None where its graph cannot be built. Nothing is begun that does not run."""
        if self.running is None:
            assert self.unit is not None
            self.turns.runs(self.unit)
            try:
                self.running = self.unit.begin()
            except FOREIGN as error:
                self._lose_unit(error)
        return self.running

    def _slice(self, running: Pass, layers: int, *, room: int) -> None:
        unit, before, started = self.unit, running.computed, self.clock()
        assert unit is not None
        last = running.computed + layers >= running.layers and isinstance(unit, TextBatch)
        if not last:
            self._hand_out()
        try:
            running.run(layers, (lambda: self._while_it_runs(room)) if last else None)
            if running.done:
                unit.take(running.output)
        except FOREIGN as error:
            self._lose_unit(error)
            return
        # The first layer's cache is there before that layer has computed anything else.
        if running.computed > 1:
            self.pace.took(running.tokens, running.computed - max(1, before), self.clock() - started)
        if running.done:
            self.counters.prefilled_tokens += running.counted
            self.running = None
        if self.doubted:
            self.doubted, self.unit, self.running = False, None, None
            self.turns.give_back(unit)

    def _while_it_runs(self, room: int) -> None:
        """End the rows of the batch before, and have the next one ready if it is of no more than `room` tokens."""
        self._hand_out()
        if self.finisher.outbox:
            self.tell()
        first, unit = self.turns.first, self.unit
        if not self.looks_ahead or unit is None or unit.due:
            return
        if first is None or not isinstance(first.row.submit.work, Embed):
            return
        following = self.turns.claim(first)
        if isinstance(following, TextBatch) and following.due <= room:
            try:
                self.ahead = following, following.begin()
                return
            except FOREIGN:
                # A model may have waited, and been told of what runs now: that runs again, and the next by itself.
                self.looks_ahead, self.doubted = False, True
        self.turns.give_back(following)

    def _complete(self, unit: Unit) -> None:
        """The unit has come to its end: what it gave is handed out, that of texts while the next ones run."""
        self.unit = None
        self._hand_out()
        if isinstance(unit, TextBatch):
            unit.caches.clear()
            self.given = unit
            return
        if isinstance(unit, TailRun):
            unit.cut_back()
        self._give(unit)

    def _hand_out(self) -> None:
        given, self.given = self.given, None
        if given is not None:
            self._give(given)

    def _give(self, unit: Unit) -> None:
        """Each row has what was computed for it."""
        for part in unit.parts:
            computed = self.turns.find(part.row)
            if computed is not None:  # else it has left meanwhile
                computed.take(part)
        self._end_complete()

    def _end_complete(self) -> None:
        """End the rows of which all is computed."""
        for computed in [one for one in self.turns.open if one.complete]:
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

    def _forget_unbegun(self) -> None:
        """What has not begun waits for who comes meanwhile, and may go together with it."""
        unit = self.unit
        if isinstance(unit, TextBatch) and not unit.ran and not (self.running and self.running.computed):
            self.unit = self.running = None
            self.turns.give_back(unit)
        self._forget_ahead()

    def _forget_ahead(self) -> None:
        if self.ahead is not None:
            self.turns.give_back(self.ahead[0])
            self.ahead = None

    def _lose_unit(self, error: BaseException) -> None:
        unit, self.unit, self.running, self.doubted = self.unit, None, None, False
        self._forget_ahead()
        assert unit is not None
        self._lose([part.row for part in unit.parts], error)

    def _lose(self, rows: list[Row], error: BaseException) -> None:
        """A pass has failed: its rows end, and nothing of theirs is used again."""
        drain()
        fault = internal_fault("pass", rows[0] if len(rows) == 1 else None, error)
        for row in rows:
            self.finisher.fail(row, fault)
            self.remove(row)
