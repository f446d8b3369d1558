"""What the histories are of: an engine, what was asked of it, and what must hold of both."""

import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine
from numpy.typing import NDArray

from backend.config import SamplerBackend
from backend.engine.batching import cache_disk
from backend.engine.batching.assembly import SLICE_SECONDS
from backend.engine.batching.device_share import device_kind
from backend.engine.batching.group_cost import PaddingBounds
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.disk_threads import DiskThreads
from backend.engine.loading import LoadedModel, load_model
from backend.engine.speculation.proposal import Drafter, Proposal
from tests.engine.drafting import pay_always
from tests.engine.machine.asked import Asked
from tests.engine.machine.kept import Names
from tests.engine.machine.numbers import Computed
from tests.engine.machine.planting import Planting
from tests.engine.machine.stepped import TICK_SECONDS, SteppedEngine, at_once
from tests.engine.machine.wishes import Load

# By model and tenant, sequences of tokens.
Told = dict[tuple[int, str], list[NDArray[np.int32]]]
MOST_ROUNDS = 4000
# Of the longest prompt and answer.
LONGEST = 200
QUEUE = (
    "requests", "generated_tokens", "cached_tokens", "preemptions", "shared_waits",
    "accepted_tokens", "drafted_tokens", "accepted_tokens.draft", "cancelled", "failed",
)  # fmt: skip


class Subject(RuleBasedStateMachine):
    """One engine that is stepped, models of one family, one kind of batch; without the rules.

    Attributes:
        row_bytes: What the longest row needs, by who guesses.
        ran: How often each rule ran, of all histories.
        totals: What the engine counted in all of them.
        load_after: Another load is worth its time once so many requests have been asked.
        seen: By model and tenant, what may be found of whom in this load.
        kept: The same, by later loads that have that of the directory, by `Load.lasting_name`.
        kept_names: Names likewise, with their tokens.
    """

    family: ClassVar[str]
    sampler: ClassVar[SamplerBackend]
    paths: ClassVar[list[Path]]
    draft: ClassVar[Path]
    row_bytes: ClassVar[dict[str, int]]
    ran: ClassVar[Counter[str]] = Counter()
    totals: ClassVar[Counter[str]] = Counter()

    def start(self, load: Load, seed: int) -> None:
        """An engine with its first model."""
        self.ran["histories"] += 1
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.patched = pytest.MonkeyPatch()
        self.rng = random.Random(seed)
        pay_always(self.patched, seed)
        self.engine = SteppedEngine(load=self._load_model)
        self.planting = Planting(self.patched, lambda: self.engine.session)
        self.patched.setattr(DiskThreads, "start", at_once)
        # What files say of when they were written goes by the same clock.
        since = time.time() - self.engine.clock.now
        self.patched.setattr(cache_disk, "time", SimpleNamespace(time=lambda: since + self.engine.clock.now))
        self.squeezed = False
        self._patch_budget()
        self._patch_guesses()
        self.load = load
        self.asked: list[Asked] = []
        self.computed: list[Computed] = []
        self.pooled: list[Row] = []
        self._watch_pooled()
        self.padding: dict[int, PaddingBounds] = {}
        self.loads, self.names = 0, Names()
        self.kept_names: dict[object, dict[tuple[str, str], NDArray[np.int32]]] = {}
        self.cleared = False
        self.seen: Told = {}
        self.kept: dict[object, Told] = {}
        self.load_another_model(load)

    def _load_model(self, *args: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*args, **options)
        draft = loaded.draft
        if draft is not None:
            draft = replace(draft, model=self.planting.model("draft", draft.model))
        backbone = loaded.backbone
        if not isinstance(backbone, str):
            backbone = replace(backbone, forward=self.planting.model("model", backbone.forward))
        return replace(loaded, model=self.planting.model("model", loaded.model), draft=draft, backbone=backbone)

    def _watch_pooled(self) -> None:
        admit = Pooled.admit

        def admitted(pooled: Pooled, row: Row) -> None:
            self.pooled.append(row)
            admit(pooled, row)

        self.patched.setattr(Pooled, "admit", admitted)

    def _patch_budget(self) -> None:
        fits = MemoryBudget.fits

        def squeezed(budget: MemoryBudget, live: int) -> bool:
            caller = sys._getframe(1)
            if self.squeezed and caller.f_code.co_name == "relieved" and len(caller.f_locals["self"].rows) > 1:
                self.squeezed = False
                return False
            return fits(budget, live)

        self.patched.setattr(MemoryBudget, "fits", squeezed)

    def _patch_guesses(self) -> None:
        plan = Speculating.plan

        def planned(speculating: Speculating, rows: list[Row], *, spare: Any) -> Plan | None:
            if self.load.guesses != "knows" or not speculating.kinds:
                return plan(speculating, rows, spare=spare)
            guesses = [self._guess(row, speculating.start) for row in rows]
            return guesses if any(guesses) else None

        self.patched.setattr(Speculating, "plan", planned)

    def _divide_work(self, load: Load) -> None:
        session = self.session
        if session.generation not in self.padding:
            self.padding = {session.generation: session.groups._bounds}
        padding = self.padding[session.generation]
        session.groups._bounds = replace(padding, group=0) if load.apart else padding
        session.prefills.pace._slice_s = TICK_SECONDS if load.brief else SLICE_SECONDS[device_kind()]

    def _guess(self, row: Row, start: int) -> Proposal | None:
        known = next((asked.right.tokens for asked in self.asked if asked.name == row.request.request_id), [])
        n = len(row.generated) + len(row.sampling.drawn_ahead)
        coming = [token.id for token in known[n : n + self.rng.randrange(7)]]
        tokens = [token if self.rng.random() < 0.8 else token ^ 1 for token in coming[: row.request.max_draft]]
        # As a drafter of the worker's: no pass goes across the length from which on rows hold codes.
        tokens = tokens[: start - row.covered - 1] if row.covered < start else tokens
        return Proposal(tuple(tokens), Drafter.TEXT, (1.0,) * len(tokens)) if tokens else None

    def hold_nothing_for_those_that_came(self) -> None:
        """What was held for them may have gone since."""
        for asked in (asked for asked in self.asked if not asked.checked):
            asked.least = 0

    def _take_failures(self) -> None:
        """A prompt cache or a disk that fails may lose what it had, and the names of it."""
        happened = self.planting.happened
        if any(happened[kind] for kind in ("cache", "disk read", "disk write")):
            self.names.sure = False
            self.hold_nothing_for_those_that_came()

    @property
    def _kept_names(self) -> dict[tuple[str, str], NDArray[np.int32]]:
        """Those that the directory has for such loads; of one that keeps nothing there, nobody asks them."""
        return self.kept_names.setdefault(self.load.lasting_name, {})

    def _of_everybody(self) -> list[NDArray[np.int32]]:
        if self.load.isolation != "performance":
            return []
        if self.names.sure:
            return self.names.of_everybody()
        return [named.tokens for named in self.session.prefix.kept.names if not named.tenant]

    @property
    def told(self) -> tuple[Told, ...]:
        """What may be found of each model and tenant: in this load, and by later ones that have the directory."""
        name = self.load.lasting_name
        return (self.seen,) if name is None else (self.seen, self.kept.setdefault(name, {}))

    def rounds(self, n: int) -> None:
        for _ in range(n):
            self.engine.round()
        self.ran["rounds"] += n

    def load_another_model(self, load: Load) -> None:
        if self.engine.session is not None and load == self.load:
            return
        self.planting.disarm()
        self.count()
        self.unloaded()
        if self.family == "mamba2":
            load = replace(load, kv=None, stored_bits=None)
        config = load.config(self.paths, self.draft, self.folder / "kv", self.sampler, self._row_bytes(load.guesses))
        self.engine.until(self.engine.handle.load(config))
        self._divide_work(load)
        self.load, self.loads, self.cleared = load, self.loads + 1, False
        self.names, self.seen = Names(sure=self.names.sure), {}
        if load.lasting_name is not None:
            kept = self.kept.setdefault(load.lasting_name, {})
            self.seen = {place: list(told) for place, told in kept.items()}
            self.names.held = {key: (tokens, False) for key, tokens in self._kept_names.items()}
        # Loads take longest; there is something to be lost by each.
        self.load_after = len(self.asked) + 3

    def _row_bytes(self, guesses: str) -> int:
        if guesses not in self.row_bytes:
            config = Load(guesses=guesses).config(self.paths, self.draft, self.folder, self.sampler, 0)
            self.engine.until(self.engine.handle.load(config))
            budget = self.session.budget
            self.row_bytes[guesses] = budget.with_copies(budget.projected(LONGEST))
        return self.row_bytes[guesses]

    def unloaded(self) -> None:
        self.pooled.clear()
        for asked in (*self.asked, *self.computed):
            asked.aborted = asked.aborted or not asked.over

    @property
    def session(self) -> Session:
        assert self.engine.session is not None
        return self.engine.session

    def count(self) -> None:
        if self.engine.session is None:
            return
        info = self.engine.handle.info()
        for figures, names in ((info.queue, QUEUE), (info.cache, ("disk.hits", "evicted_blocks"))):
            for name in names:
                self.totals[name] += int(figures.get(name, 0))
        self.totals["priority_preemptions"] += self.engine.session.counters.priority_preemptions
