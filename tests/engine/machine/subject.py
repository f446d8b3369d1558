"""What the histories are of: an engine, what was asked of it, and what must hold of both."""

import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine
from numpy.typing import NDArray

from backend.config import SamplerBackend
from backend.core.errors import DeadlineExceeded, InternalFault, InvalidRequest, Overloaded, WorkerError
from backend.core.request import GenerationRequest
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.pooled.lane import Pooled
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
from tests.engine.machine.kept import Names, check_stored, forgotten
from tests.engine.machine.numbers import Computed, Question, right_numbers
from tests.engine.machine.planting import Planting
from tests.engine.machine.stepped import SteppedEngine, at_once
from tests.engine.machine.wishes import Load, Wish
from tests.mlx_cache.oracle import check_consistent
from tests.straight import Straight

MOST_ROUNDS = 4000
# Of the longest prompt and answer.
LONGEST = 200
QUEUE = (
    "requests", "generated_tokens", "cached_tokens", "preemptions", "shared_waits",
    "accepted_tokens", "drafted_tokens", "accepted_tokens.draft", "cancelled", "failed",
)  # fmt: skip


@cache
def straight(folder: Path) -> Straight:
    """A directory's model, for numbers."""
    return Straight(folder)


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
        self.computed: list[Computed] = []
        self.pooled: list[Row] = []
        self._watch_pooled()
        self.loads, self.names = 0, Names()
        self.kept_names: dict[tuple[int, object], dict[tuple[str, str], NDArray[np.int32]]] = {}
        self.cleared = False
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
            for computed in (one for one in self.computed if one.over and not one.task.cancelled()):
                computed.task.exception()  # nobody asks any more
            shutil.rmtree(self.folder, ignore_errors=True)

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
            guesses = [self._guess(row) for row in rows]
            return guesses if any(guesses) else None

        self.patched.setattr(Speculating, "plan", planned)

    def _guess(self, row: Row) -> Proposal | None:
        known = next((asked.right.tokens for asked in self.asked if asked.name == row.request.request_id), [])
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
        asked = Asked(name=name, wish=wish, right=self._right(wish), deadline=deadline, load=self.loads)
        asked.exact, asked.came_at = self.load.stored_bits is None, self.engine.clock.now
        asked.least = self.names.least(wish.tokens, wish.tenant, self.load)
        place = (self.load.model, wish.tenant)
        asked.known = [*self.seen.get(place, ()), *self._of_everybody()]
        for told in self.told:
            told.setdefault(place, []).append(asked.tokens)
        asked.stream = self.engine.until(self.engine.handle.submit(wish.request(name, deadline)))
        self.asked.append(asked)
        self.engine.start(asked.read())

    def _right(self, wish: Wish) -> Right:
        current = self.engine.handle._loads.current
        assert current is not None
        self.planting.quiet = True
        output = current.prepare(wish.request("", None)).output
        found = right(wish, alone(self.paths[self.load.model]), output, self.load.form)
        self.planting.quiet = False
        return found

    def compute(self, question: Question, seconds: float | None) -> Computed:
        """Have numbers computed of a text."""
        name, now, load = f"n{len(self.computed)}", self.engine.clock.now, self.load
        path, deadline = self.paths[load.model], None if seconds is None else now + seconds
        self.planting.quiet = True
        numbers = right_numbers(question, alone(path), straight(path), load.form)
        self.planting.quiet = False
        place, hit = (load.model, question.tenant), 0
        if len(question.prompt):
            others = [*self.seen.get(place, ()), *self._of_everybody()]
            # Where something fails it may begin anew, from what it has stored itself; and others' come meanwhile.
            busy = any(not one.over for one in (*self.asked, *self.computed)) or load.tight or self.planting.armed
            hit = (
                len(question.prompt)
                if busy
                else max((common_prefix(question.prompt, told) for told in others), default=0)
            )
            for told in self.told:
                told.setdefault(place, []).append(question.prompt)
        task = self.engine.submitted(self.engine.handle.compute(question.request(name, deadline)))
        computed = Computed(name=name, question=question, right=numbers, task=task, deadline=deadline, hit=hit)
        self.computed.append(computed)
        return computed

    def name(self, name: str, text: str, tenant: str) -> None:
        """Keep a prefix under a name, and wait for it."""
        asked, tokens = f"c{len(self.asked)}{name}{self.engine.clock.now}", np.frombuffer(text.encode(), np.uint8)
        wanted = GenerationRequest(request_id=asked, prompt=text, tenant=tenant, keep_as=name, prefill_only=True)
        for told in self.told:
            told.setdefault((self.load.model, tenant), []).append(tokens.astype(np.int32))
        task = self.engine.submitted(self.engine.handle.create_prefix(wanted))
        for _ in range(MOST_ROUNDS):
            if task.done():
                break
            self.rounds(1)
        self._take_failures()
        error = task.exception()
        if error is not None:
            refused = InvalidRequest if self.load.isolation == "strict" else Overloaded
            lost = isinstance(error, InternalFault) and asked in self.planting.lost
            assert isinstance(error, WorkerError) and (isinstance(error, (refused, Overloaded)) or lost), error
            return
        assert asked not in self.planting.lost
        n = len(tokens) // 128 * 128 if self.load.isolation == "strict" else len(tokens)
        kept = tokens[:n].astype(np.int32)
        self.names.held[tenant, name] = kept, True
        if self.load.disk:
            self._kept_names[tenant, name] = kept
        for one in (one for one in self.asked if not one.over):
            one.known.extend([] if tenant else [kept])

    def unname(self, name: str, tenant: str) -> None:
        """Let a name go; who runs may have hit it, or may not."""
        self._take_failures()
        there = self.engine.until(self.engine.handle.delete_prefix(tenant, name))
        assert not self.names.sure or there == ((tenant, name) in self.names.held)
        self.names.held.pop((tenant, name), None)
        self._kept_names.pop((tenant, name), None)
        self.hold_nothing_for_those_that_run()

    def hold_nothing_for_those_that_run(self) -> None:
        """What was held for them when they came may have gone since."""
        for asked in (asked for asked in self.asked if not asked.over):
            asked.least = 0

    def _take_failures(self) -> None:
        """A prompt cache or a disk that fails may lose what it had, and the names of it."""
        happened = self.planting.happened
        if any(happened[kind] for kind in ("cache", "disk read", "disk write")):
            self.names.sure = False
            self.hold_nothing_for_those_that_run()

    @property
    def _kept_names(self) -> dict[tuple[str, str], NDArray[np.int32]]:
        """Those that the directory has of this model in this form."""
        load = self.load
        return self.kept_names.setdefault((load.model, (load.kv, load.stored_bits)), {})

    def _of_everybody(self) -> list[NDArray[np.int32]]:
        if self.load.isolation != "performance":
            return []
        if self.names.sure:
            return self.names.of_everybody()
        return [named.tokens for named in self.session.prefix.kept.names if not named.tenant]

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
        if self.family == "mamba2":
            load = replace(load, kv=None, stored_bits=None)
        config = load.config(self.paths, self.draft, self.folder / "kv", self.sampler, self._row_bytes(load.guesses))
        self.engine.until(self.engine.handle.load(config))
        self.load, self.loads, self.cleared = load, self.loads + 1, False
        self.names = Names(sure=self.names.sure)
        if load.disk:
            self.names.held = {key: (tokens, False) for key, tokens in self._kept_names.items()}
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
        for asked in (*self.asked, *self.computed):
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
            if all(asked.over for asked in (*self.asked, *self.computed)) and not self.session.busy:
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
            assert asked.ends <= 1 and (not asked.exact or asked.right.text.startswith(asked.text)), asked
            if asked.over and not asked.checked:
                asked.checked = True
                lost, may_lose = asked.name in planting.lost, asked.name in planting.may_lose
                asked.check(now, lost=lost, may_lose=may_lose, hit=self._hit(asked))
        exact = self.load.stored_bits is None
        for computed in (one for one in self.computed if one.over and not one.checked):
            computed.check(now, lost=computed.name in planting.lost, exact=exact)

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
        owed = {asked.name for asked in (*self.asked, *self.computed) if not asked.over and not asked.aborted}
        lost = owed - {row.request.request_id for row in rows} - self._on_their_way()
        assert not lost, (lost, [computed for computed in self.computed if computed.name in lost])
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
        assert not session.pooled.rows and all(row.caches is None for row in self.pooled if row.stream.ended)
        self.planting.quiet = True
        self._check_kept()
        self.planting.quiet = False

    def _check_kept(self) -> None:
        """The prompt cache has what it must, and nothing that it must not."""
        self._take_failures()
        self.names.check(self.session)
        now, sure = self.engine.clock.now, self.names.sure and not self.cleared
        own = [asked for asked in self.asked if asked.load == self.loads]
        for asked in own:
            asked.over_at = asked.over_at or now
        gone = forgotten(self.session, own, self.load, now, sure=sure)
        self._forget(gone)
        if self.planting.happened["cache"]:
            return
        for asked in own[-2:]:
            self._check_stored(asked)

    def _check_stored(self, asked: Asked) -> None:
        model, tenant = self.load.model, asked.wish.tenant
        check_stored(self.session, self.load, self.family, alone(self.paths[model]), asked.tokens, tenant)

    def _forget(self, gone: set[tuple[str, str]]) -> None:
        """What conversations left that are gone can be hit by nobody."""
        for tenant, talk in gone:
            left = [
                one for one in self.asked if (one.load, one.wish.tenant, one.wish.talk) == (self.loads, tenant, talk)
            ]
            place, ids = (self.load.model, tenant), {id(one.tokens) for one in left}
            for told in self.told:
                told[place] = [tokens for tokens in told.get(place, ()) if id(tokens) not in ids]
            if self.names.sure:
                for one in left:
                    self._check_gone(one)

    def _check_gone(self, one: Asked) -> None:
        tenant, prefix = one.wish.tenant, self.session.prefix
        others = [*self.seen.get((self.load.model, tenant), ()), *self._of_everybody()]
        most = max((common_prefix(one.tokens, told) for told in others), default=0)
        found = prefix._store.cache.match_length(prefix._store.key_of(tenant), np.append(one.tokens, np.int32(1)))
        assert found <= most, (one, found, most)

    def count(self) -> None:
        if self.engine.session is None:
            return
        info = self.engine.handle.info()
        for figures, names in ((info.queue, QUEUE), (info.cache, ("disk.hits", "evicted_blocks"))):
            for name in names:
                self.totals[name] += int(figures.get(name, 0))
        self.totals["priority_preemptions"] += self.engine.session.counters.priority_preemptions
