"""What the histories are of: an engine, what was asked of it, and what must hold of both."""

import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine
from numpy.typing import NDArray

from backend.config import SamplerBackend
from backend.core.errors import DeadlineExceeded
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.disk_threads import DiskThreads
from backend.engine.inbox import Submit
from backend.engine.loading import LoadedModel, load_model
from backend.engine.speculation.proposal import Drafter, Proposal
from mlx_cache.tree import common_prefix
from tests.engine.drafting import pay_always
from tests.engine.machine.alone import alone
from tests.engine.machine.asked import Asked, Right, right
from tests.engine.machine.planting import Planting
from tests.engine.machine.stepped import SteppedEngine, at_once
from tests.engine.machine.wishes import Load, Wish
from tests.mlx_cache.oracle import check_consistent

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
        kept: The same, by later loads that have the directory.
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
        self.squeezed = False
        self._patch_budget()
        self._patch_guesses()
        self.load = load
        self.asked: list[Asked] = []
        self.seen: dict[tuple[int, str], list[NDArray[np.int32]]] = {}
        self.kept: dict[tuple[int, str], list[NDArray[np.int32]]] = {}
        self.load_another_model(load)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            if sys.exc_info()[0] is None and self.engine.session is not None:
                self.rest()
                self._ask_again()
            self.count()
            self.totals.update({f"fault {kind}": n for kind, n in self.planting.happened.items()})
        finally:
            self.patched.undo()
            self.engine.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _load_model(self, *args: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*args, **options)
        draft = loaded.draft
        if draft is not None:
            draft = replace(draft, model=self.planting.model("draft", draft.model))
        return replace(loaded, model=self.planting.model("model", loaded.model), draft=draft)

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
            guesses = [self._guess(row) for row in rows]
            return guesses if any(guesses) else None

        self.patched.setattr(Speculating, "plan", planned)

    def _guess(self, row: Row) -> Proposal | None:
        known = next(asked.right.tokens for asked in self.asked if asked.name == row.request.request_id)
        n = len(row.generated) + len(row.sampling.drawn_ahead)
        coming = [token.id for token in known[n : n + self.rng.randrange(7)]]
        tokens = [token if self.rng.random() < 0.8 else token ^ 1 for token in coming[: row.request.max_draft]]
        return Proposal(tuple(tokens), Drafter.TEXT, (1.0,) * len(tokens)) if tokens else None

    # What rules do

    def ask_some(self, wishes: list[Wish], rounds: int) -> None:
        for wish in wishes:
            self.ask(wish, None)
            self.rounds(rounds)

    def ask(self, wish: Wish, seconds: float | None) -> None:
        name = f"r{len(self.asked)}"
        deadline = None if seconds is None else self.engine.clock.now + seconds
        if seconds == 0.0:
            with pytest.raises(DeadlineExceeded):
                self.engine.until(self.engine.handle.submit(wish.request(name, deadline)))
            return
        asked = Asked(name=name, wish=wish, right=self._right(wish), deadline=deadline)
        place = (self.load.model, wish.tenant)
        asked.known = list(self.seen.get(place, ()))
        for told in self.told:
            told.setdefault(place, []).append(asked.tokens)
        asked.stream = self.engine.until(self.engine.handle.submit(wish.request(name, deadline)))
        self.asked.append(asked)
        self.engine.start(asked.read())

    def _right(self, wish: Wish) -> Right:
        current = self.engine.handle._loads.current
        assert current is not None
        self.planting.quiet = True
        found = right(wish, alone(self.paths[self.load.model]), current.prepare(wish.request("", None)).output)
        self.planting.quiet = False
        return found

    @property
    def told(self) -> tuple[dict[tuple[int, str], list[NDArray[np.int32]]], ...]:
        """What may be found of each model and tenant: in this load, and by later ones that have the directory."""
        return (self.seen, self.kept) if self.load.disk else (self.seen,)

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
        config = load.config(self.paths, self.draft, self.folder / "kv", self.sampler, self._row_bytes(load.guesses))
        self.engine.until(self.engine.handle.load(config))
        self.load = load
        # Loads take longest; there is something to be lost by each.
        self.load_after = len(self.asked) + 3
        self.seen = {place: list(told) for place, told in self.kept.items()} if load.disk else {}

    def _row_bytes(self, guesses: str) -> int:
        if guesses not in self.row_bytes:
            config = Load(guesses=guesses).config(self.paths, self.draft, self.folder, self.sampler, 0)
            self.engine.until(self.engine.handle.load(config))
            budget = self.session.budget
            self.row_bytes[guesses] = budget.with_copies(budget.projected(LONGEST))
        return self.row_bytes[guesses]

    def unloaded(self) -> None:
        for asked in self.asked:
            asked.aborted = asked.aborted or not asked.over

    def _ask_again(self) -> None:
        """What nobody disturbs any more is answered exactly."""
        self.planting.disarm()
        wishes = list(dict.fromkeys(asked.wish for asked in self.asked))
        for wish in wishes[-3:]:
            self.ask(wish, None)
        self.rest()
        assert all(asked.end is not None for asked in self.asked[len(self.asked) - len(wishes[-3:]) :])

    def rest(self) -> None:
        """Until everybody has an end; then each is right, and nothing is left."""
        self.squeezed = False
        for _ in range(MOST_ROUNDS):
            if all(asked.over for asked in self.asked) and not self.session.busy:
                break
            self.engine.round()
        else:
            raise AssertionError("somebody has no end")
        self.engine.round()
        self.check_at_rest()

    # What must hold

    @property
    def session(self) -> Session:
        assert self.engine.session is not None
        return self.engine.session

    def check_answers(self) -> None:
        now, planting = self.engine.clock.now, self.planting
        for asked in self.asked:
            assert asked.ends <= 1 and asked.right.text.startswith(asked.text), asked
            if asked.over and not asked.checked:
                asked.checked = True
                lost, may_lose = asked.name in planting.lost, asked.name in planting.may_lose
                asked.check(now, lost=lost, may_lose=may_lose, hit=self._hit(asked))

    def _hit(self, asked: Asked) -> int:
        """Tokens that the prompt cache may have had for it: of what its tenant had asked when it came, or since."""
        since = self.seen.get((self.load.model, asked.wish.tenant), ())
        # Where something failed it may have begun anew, from what it had stored itself.
        others = [told for told in (*asked.known, *since) if told is not asked.tokens or self.planting.happened]
        return max((common_prefix(asked.tokens, told) for told in others), default=0)

    def check_rows(self) -> None:
        session = self.engine.session
        if session is None:
            return
        rows = [*session.waiting, *session.room.rows]
        assert len({id(row) for row in rows}) == len(rows)
        owed = {asked.name for asked in self.asked if not asked.over and not asked.aborted}
        assert owed <= {row.request.request_id for row in rows} | self._on_their_way(), rows
        assert session.prefix.nbytes <= min(session.prefix.most_bytes, session.budget.total)

    def _on_their_way(self) -> set[str]:
        commands = [*self.engine._thread._taken, *self.engine._thread._inbox._commands]
        return {command.request.request_id for command in commands if isinstance(command, Submit)}

    def check_at_rest(self) -> None:
        """Each has a right end, and nothing is left."""
        session = self.session
        queue = dict(self.engine.handle.info().queue)
        for figure in ("in_flight", "waiting", "prefilling", "decoding", "storing", "live_kv_bytes"):
            assert queue[figure] == 0, queue
        assert not session.room.rows and session.room.projected() == 0
        assert not session.decoding.moving and not session.decoding.storing.rows and session.speculating.nbytes() == 0
        self.engine.rest_disk()
        check_consistent(session.prefix._store.cache)
        assert not list(self.folder.rglob("*.tmp")) + list(self.folder.rglob(".tmp*"))
        self.check_answers()

    def count(self) -> None:
        if self.engine.session is None:
            return
        info = self.engine.handle.info()
        for figures, names in ((info.queue, QUEUE), (info.cache, ("disk.hits", "evicted_blocks"))):
            for name in names:
                self.totals[name] += int(figures.get(name, 0))
        self.totals["priority_preemptions"] += self.engine.session.counters.priority_preemptions
