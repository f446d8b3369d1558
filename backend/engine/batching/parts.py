"""What a session runs its rows in, each part put together with those that it works with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from backend.config import EngineConfig
from backend.engine.batching.admission import Admission
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.decoding import Decoding
from backend.engine.batching.emitting import Emitter
from backend.engine.batching.finishing import Finisher, internal_fault
from backend.engine.batching.group_cost import PaddingBounds
from backend.engine.batching.groups import DecodeGroups
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.pace import Pace
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.pooled.shapes import Shapes
from backend.engine.batching.pooled.turns import Turns
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.room import Room
from backend.engine.batching.row import Row
from backend.engine.batching.speculating import Speculating
from backend.engine.batching.storing import Storing
from backend.engine.channel import Outbox
from backend.engine.loading import LoadedModel
from backend.engine.picture import Counters


@dataclass(slots=True, eq=False, kw_only=True)
class Parts:
    """Engine thread only. Invariant: a part is made of those before it; what it asks of a later one goes through here.

    Args:
        chunk: Tokens of a prefill chunk at most.
        tell: Lets clients have what was posted, before work that they need not wait for.
        shapes: Of passes over texts.
        scores: Of a prefill chunk, the most query tokens times key tokens; None where nothing bounds them.
    """

    loaded: LoadedModel
    engine: EngineConfig
    prefix: PrefixCache
    counters: Counters
    speculating: Speculating
    new_batch: Callable[[], DecodeBatch]
    budget: MemoryBudget
    padding: PaddingBounds
    outbox: Outbox
    tell: Callable[[], None]
    chunk: int
    pace: Pace
    clock: Callable[[], float]
    shapes: Shapes
    scores: int | None
    finisher: Finisher = field(init=False)
    prefills: Prefills = field(init=False)
    groups: DecodeGroups = field(init=False)
    pooled: Pooled = field(init=False)
    room: Room = field(init=False)
    decoding: Decoding = field(init=False)
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        self.finisher = Finisher(self.outbox, self.counters, self.clock)
        self.prefills = self._make_prefills()
        self.groups = self._make_groups()
        self.pooled = self._make_pooled()
        self.room = self._make_room()
        self.decoding = self._make_decoding()
        self.admission = self._make_admission()

    # Each in turn

    def _make_prefills(self) -> Prefills:
        return Prefills(
            model=self.loaded.model,
            new_cache=self.loaded.new_cache,
            prefix=self.prefix,
            chunk=self.chunk,
            pace=self.pace,
            counters=self.counters,
            clock=self.clock,
            on_error=self._fail_prefill,
            settle=self._settle,
            meanwhile=self._hand_out,
            distrust=self._distrust,
            report_s=self.engine.progress_s,
            kv=self.loaded.kv,
        )

    def _make_groups(self) -> DecodeGroups:
        kv = self.loaded.kv
        return DecodeGroups(
            self.new_batch,
            self.budget,
            self.padding,
            spare=self._spare,
            is_codes=kv.is_codes if kv is not None else lambda _covered: False,
        )

    def _make_pooled(self) -> Pooled:
        turns = Turns(
            model=self.loaded.model,
            backbone=self.loaded.backbone,
            vocab_size=self.loaded.vocab_size,
            chunk=self.chunk,
            shapes=self.shapes,
            scores=self.scores,
        )
        return Pooled(
            turns=turns,
            chunk=self.chunk,
            pace=self.pace,
            counters=self.counters,
            finisher=self.finisher,
            clock=self.clock,
            settle=self._settle,
            meanwhile=self._hand_out,
            tell=self.tell,
        )

    def _make_room(self) -> Room:
        return Room(
            budget=self.budget,
            prefix=self.prefix,
            prefills=self.prefills,
            groups=self.groups,
            pooled=self.pooled,
            drafting=self.speculating.nbytes,
        )

    def _make_decoding(self) -> Decoding:
        storing = Storing(
            prefix=self.prefix,
            groups=self.groups,
            room=self.room,
            settle=self._settle,
            tell=self.tell,
            clock=self.clock,
            leaves_drafts=self.speculating.leave,
        )
        return Decoding(
            groups=self.groups,
            prefills=self.prefills,
            storing=storing,
            emitter=Emitter(self.loaded.eos_ids, self.finisher, self.outbox, self.counters),
            finisher=self.finisher,
            outbox=self.outbox,
            counters=self.counters,
            tell=self.tell,
            requeue=self._requeue,
            pooled=self.pooled,
            speculating=self.speculating,
            spare=self._spare,
            clock=self.clock,
            kv=self.loaded.kv,
        )

    def _make_admission(self) -> Admission:
        return Admission(
            prefix=self.prefix,
            prefills=self.prefills,
            pooled=self.pooled,
            groups=self.groups,
            room=self.room,
            decoding=self.decoding,
            finisher=self.finisher,
            counters=self.counters,
            clock=self.clock,
            chunk=self.chunk,
            scores=self.scores,
            kv=self.loaded.kv,
            most_rows=self.engine.rows_together(batchable=self.loaded.batchable),
            strict=self.engine.isolation == "strict",
        )

    # What is asked of a later one

    def _settle(self) -> None:
        self.decoding.settle()

    def _hand_out(self) -> None:
        self.decoding.hand_out()

    def _distrust(self) -> None:
        self.decoding.restart_in_flight()

    def _requeue(self, row: Row) -> None:
        self.admission.requeue(row)

    def _spare(self) -> int:
        return self.room.spare()

    def _fail_prefill(self, row: Row, error: BaseException) -> None:
        self.finisher.fail(row, internal_fault("prefill", row, error))
