"""Histories of a real engine: requests, loads, faults and evictions in any order, against what the model alone says."""

import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from backend.config import SamplerBackend
from backend.core.errors import DeadlineExceeded, ModelNotLoaded
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.inbox import Submit
from backend.engine.loading import LoadedModel, load_model
from backend.engine.speculation.proposal import Drafter, Proposal
from mlx_cache.tree import common_prefix
from tests.engine.drafting import pay_always
from tests.engine.machine.alone import alone
from tests.engine.machine.asked import Asked, Right, right
from tests.engine.machine.planting import KINDS, Planting
from tests.engine.machine.stepped import SteppedEngine
from tests.engine.machine.wishes import LOADS, WISHES, Load, Wish
from tests.mlx_cache.oracle import check_consistent
from tests.models import write_model

MOST_ROUNDS = 4000
ROUNDS = st.sampled_from((2, 0, 1, 4, 9))
SOME_WISHES = st.lists(WISHES, min_size=1, max_size=4)
running = precondition(lambda self: any(not asked.over for asked in self.asked))
worth_a_load = precondition(lambda self: len(self.asked) >= self.load_after)
cached = precondition(lambda self: self.engine.session.prefix.nbytes > 0)
# Of the longest prompt and answer.
LONGEST = 200


class EngineMachine(RuleBasedStateMachine):
    """One engine that is stepped, models of one family, one kind of batch.

    Attributes:
        ran: How often each rule ran, of all histories.
        totals: What the engine counted in all of them.
    """

    family: ClassVar[str]
    sampler: ClassVar[SamplerBackend]
    paths: ClassVar[list[Path]]
    draft: ClassVar[Path]
    row_bytes: ClassVar[dict[str, int]]
    ran: ClassVar[Counter[str]] = Counter()
    totals: ClassVar[Counter[str]] = Counter()

    @classmethod
    def of(cls, folder: Path, family: str, sampler: SamplerBackend) -> "type[EngineMachine]":
        """The machine of a family and a batch; its models are written to `folder`."""
        paths = [write_model(folder / f"{family}-{seed}", family, seed=seed) for seed in (0, 1)]
        draft = write_model(folder / "draft", "qwen3", seed=0)
        models = {"family": family, "sampler": sampler, "paths": paths, "draft": draft}
        return type("Machine", (cls,), {**models, "row_bytes": {}, "ran": Counter(), "totals": Counter()})

    # Life

    @initialize(load=LOADS, seed=st.integers(0, 3))
    def begin(self, load: Load, seed: int) -> None:
        self.ran["histories"] += 1
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.patched = pytest.MonkeyPatch()
        self.rng = random.Random(seed)
        pay_always(self.patched, seed)
        self.engine = SteppedEngine(load=self._load_model)
        self.planting = Planting(self.patched, lambda: self.engine.session)
        self.squeezed = False
        self._patch_budget()
        self._patch_guesses()
        self.load = load
        self.asked: list[Asked] = []
        self.seen: dict[tuple[int, str], list[NDArray[np.int32]]] = {}
        self.kept: dict[tuple[int, str], list[NDArray[np.int32]]] = {}
        self._load(load)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            if sys.exc_info()[0] is None and self.engine.session is not None:
                self.come_to_rest()
                self._ask_again()
            self._count()
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

    # Requests

    @rule(wish=WISHES, seconds=st.sampled_from((None, None, None, 0.1, 0.3, 0.0)), rounds=ROUNDS)
    def submit(self, wish: Wish, seconds: float | None, rounds: int) -> None:
        self.ran["submit"] += 1
        self._submit(wish, seconds)
        self._rounds(rounds)

    @rule(wishes=SOME_WISHES, rounds=ROUNDS)
    def submit_some(self, wishes: list[Wish], rounds: int) -> None:
        self.ran["submit_some"] += 1
        self._submit_some(wishes, rounds)

    def _submit_some(self, wishes: list[Wish], rounds: int) -> None:
        for wish in wishes:
            self._submit(wish, None)
            self._rounds(rounds)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 99), tenant=st.sampled_from((None, "", "a", "b")), more=st.booleans(), rounds=ROUNDS)
    def submit_once_more(self, which: int, tenant: str | None, more: bool, rounds: int) -> None:
        """The same prompt, or one that goes on from its answer, of the same tenant or another."""
        self.ran["submit_once_more"] += 1
        before = self.asked[which % len(self.asked)]
        prompt = before.wish.prompt
        # A marker's text would be one token of a prompt.
        plain = before.end is not None and before.text.isascii() and "<" not in before.text
        if more and plain and len(prompt) + len(before.text) < LONGEST - 30:
            prompt += before.text + " and?"
        self._submit(replace(before.wish, prompt=prompt, tenant=before.wish.tenant if tenant is None else tenant), None)
        self._rounds(rounds)

    def _submit(self, wish: Wish, seconds: float | None) -> None:
        name = f"r{len(self.asked)}"
        deadline = None if seconds is None else self.engine.clock.now + seconds
        if seconds == 0.0:
            with pytest.raises(DeadlineExceeded):
                self.engine.until(self.engine.handle.submit(wish.request(name, deadline)))
            return
        asked = Asked(name=name, wish=wish, right=self._right(wish), deadline=deadline)
        place = (self.load.model, wish.tenant)
        asked.known = list(self.seen.get(place, ()))
        for told in self._told:
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
    def _told(self) -> tuple[dict[tuple[int, str], list[NDArray[np.int32]]], ...]:
        """What may be found of each model and tenant: in this load, and by later ones that have the directory."""
        return (self.seen, self.kept) if self.load.disk else (self.seen,)

    @running
    @rule(n=st.sampled_from((3, 1, 2, 6, 12)))
    def step(self, n: int) -> None:
        self.ran["step"] += 1
        self._rounds(n)

    def _rounds(self, n: int) -> None:
        for _ in range(n):
            self.engine.round()
        self.ran["rounds"] += n

    @running
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        self.ran["cancel"] += 1
        running = [asked for asked in self.asked if not asked.over]
        asked = running[which % len(running)]
        assert asked.stream is not None
        asked.stream.cancel()
        asked.cancelled = True

    @running
    @rule(seconds=st.sampled_from((0.2, 5.0, 40.0, 4000.0)))
    def time_passes(self, seconds: float) -> None:
        self.ran["time_passes"] += 1
        self.engine.clock.now += seconds

    # Models

    @worth_a_load
    @rule(load=LOADS)
    def load_another(self, load: Load) -> None:
        self.ran["load"] += 1
        self._load(load)

    def _load(self, load: Load) -> None:
        if self.engine.session is not None and load == self.load:
            return
        self.planting.disarm()
        self._count()
        self._unloaded()
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
            budget = self._session.budget
            self.row_bytes[guesses] = budget.with_copies(budget.projected(LONGEST))
        return self.row_bytes[guesses]

    @worth_a_load
    @rule(wish=WISHES, load=LOADS)
    def free(self, wish: Wish, load: Load) -> None:
        self.ran["free"] += 1
        self.planting.disarm()
        self._count()
        self._unloaded()
        self.engine.until(self.engine.handle.free())
        self._rounds(1)
        assert self.engine.session is None
        with pytest.raises(ModelNotLoaded):
            self.engine.until(self.engine.handle.submit(wish.request("nobody", None)))
        self._load(load)

    def _unloaded(self) -> None:
        for asked in self.asked:
            asked.aborted = asked.aborted or not asked.over

    # Faults

    @rule(place=st.sampled_from(KINDS), n=st.sampled_from((1, 2, 3, 5, 9)), wishes=SOME_WISHES, rounds=ROUNDS)
    def plant(self, place: str, n: int, wishes: list[Wish], rounds: int) -> None:
        self.ran["plant"] += 1
        self.planting.arm(place, n)
        self._submit_some(wishes, rounds)

    # The prompt cache and the budget

    @cached
    @rule(tenant=st.sampled_from((None, "", "a", "b")))
    def clear(self, tenant: str | None) -> None:
        self.ran["clear"] += 1
        self.engine.until(self.engine.handle.clear_cache(tenant))
        for told in self._told:
            for place in [place for place in told if place[0] == self.load.model and tenant in (None, place[1])]:
                # What runs, or waits, may leave something yet.
                told[place] = [asked.tokens for asked in self.asked if not asked.over and asked.wish.tenant == place[1]]

    @cached
    @rule(which=st.integers(0, 99), rounds=ROUNDS)
    def evict(self, which: int, rounds: int) -> None:
        """All that is in memory; a disk below has it yet, and gives it to who asks once more."""
        self.ran["evict"] += 1
        store = self._session.prefix._store
        if self.load.disk:
            store.cache.flush(10)
            self.engine.rest_disk()
        store.clear(None)
        self._submit(self.asked[which % len(self.asked)].wish, None)
        self._rounds(rounds)

    @cached
    @rule(n_bytes=st.integers(0, 60_000))
    def shrink(self, n_bytes: int) -> None:
        self.ran["shrink"] += 1
        self._session.prefix.limit_to(n_bytes)

    @rule(wishes=SOME_WISHES, rounds=ROUNDS)
    def squeeze(self, wishes: list[Wish], rounds: int) -> None:
        """As soon as two rows run there is no room for all, once: one goes back."""
        self.ran["squeeze"] += 1
        self.squeezed = True
        self._submit_some(wishes, rounds)

    @running
    @rule()
    def come_to_rest(self) -> None:
        """Everybody has an end, each is right, and nothing is left."""
        self.ran["come_to_rest"] += 1
        self.squeezed = False
        for _ in range(MOST_ROUNDS):
            if all(asked.over for asked in self.asked) and not self._session.busy:
                break
            self.engine.round()
        else:
            raise AssertionError("somebody has no end")
        self.engine.round()
        session = self._session
        queue = dict(self.engine.handle.info().queue)
        for figure in ("in_flight", "waiting", "prefilling", "decoding", "storing", "live_kv_bytes"):
            assert queue[figure] == 0, queue
        assert not session.room.rows and session.room.projected() == 0
        assert not session.decoding.moving and not session.decoding.storing.rows and session.speculating.nbytes() == 0
        self.engine.rest_disk()
        check_consistent(session.prefix._store.cache)
        assert not list(self.folder.rglob("*.tmp")) + list(self.folder.rglob(".tmp*"))

    def _ask_again(self) -> None:
        """What nobody disturbs any more is answered exactly."""
        self.planting.disarm()
        wishes = list(dict.fromkeys(asked.wish for asked in self.asked))
        for wish in wishes[-3:]:
            self._submit(wish, None)
        self.come_to_rest()
        assert all(asked.end is not None for asked in self.asked[len(self.asked) - len(wishes[-3:]) :])

    # What always holds

    @property
    def _session(self) -> Session:
        assert self.engine.session is not None
        return self.engine.session

    @invariant()
    def all_is_well(self) -> None:
        self._each_is_right_as_far_as_it_goes()
        self._each_row_is_in_one_place()

    def _each_is_right_as_far_as_it_goes(self) -> None:
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

    def _each_row_is_in_one_place(self) -> None:
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

    def _count(self) -> None:
        if self.engine.session is None:
            return
        info = self.engine.handle.info()
        for figures, names in ((info.queue, QUEUE), (info.cache, ("disk.hits", "evicted_blocks"))):
            for name in names:
                self.totals[name] += int(figures.get(name, 0))
        self.totals["priority_preemptions"] += self.engine.session.counters.priority_preemptions


QUEUE = (
    "requests", "generated_tokens", "cached_tokens", "preemptions", "shared_waits",
    "accepted_tokens", "drafted_tokens", "accepted_tokens.draft", "cancelled", "failed",
)  # fmt: skip
