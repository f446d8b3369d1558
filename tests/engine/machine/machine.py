"""Histories of a real engine: requests, loads, faults and evictions in any order, against what the model alone says."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, invariant, precondition, rule

from backend.config import SamplerBackend
from backend.core.errors import ModelNotLoaded
from tests.engine.machine.alone import WORDS
from tests.engine.machine.checked import Checked
from tests.engine.machine.numbers import QUESTIONS, Question
from tests.engine.machine.planting import KINDS, STEPS
from tests.engine.machine.subject import LONGEST
from tests.engine.machine.wishes import GROUP, LOADS, NAMED, PROMPTS, WISHES, Load, Wish
from tests.models import write_model
from tests.straight import with_yes_and_no

ROUNDS = st.sampled_from((2, 0, 1, 4, 9))
SOME_WISHES = st.lists(WISHES, min_size=1, max_size=4)
UNLIKE_WISHES = st.lists(WISHES, min_size=2, max_size=3, unique_by=lambda wish: wish.prompt)
running = precondition(lambda self: any(not asked.over for asked in self.asked))
worth_a_load = precondition(lambda self: len(self.asked) >= self.load_after)
cached = precondition(lambda self: self.asked and self.engine.session.prefix.nbytes > 0)


class EngineMachine(Checked):
    """The rules: each may be of use on its own, whatever ran before."""

    @classmethod
    def of(cls, folder: Path, family: str, sampler: SamplerBackend) -> "type[EngineMachine]":
        """The machine of a family and a batch; its models are written to `folder`."""
        # So that groups of codes divide a head.
        extra = {} if family == "mamba2" else {"head_dim": GROUP}
        paths = [
            with_yes_and_no(write_model(folder / f"{family}-{seed}", family, seed=seed, extra=extra)) for seed in (0, 1)
        ]
        draft = with_yes_and_no(write_model(folder / "draft", "qwen3", seed=0))
        models = {"family": family, "sampler": sampler, "paths": paths, "draft": draft}
        return type("Machine", (cls,), {**models, "row_bytes": {}, "ran": Counter(), "totals": Counter()})

    @initialize(load=LOADS, seed=st.integers(0, 3))
    def begin(self, load: Load, seed: int) -> None:
        self.start(load, seed)

    # Requests

    @rule(wish=WISHES, seconds=st.sampled_from((None, None, None, 0.1, 0.3, 0.0)), rounds=ROUNDS)
    def submit(self, wish: Wish, seconds: float | None, rounds: int) -> None:
        self.ran["submit"] += 1
        self.ask(wish, seconds)
        self.rounds(rounds)

    @rule(wishes=SOME_WISHES, rounds=ROUNDS)
    def submit_some(self, wishes: list[Wish], rounds: int) -> None:
        self.ran["submit_some"] += 1
        self.ask_some(wishes, rounds)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 99), tenant=st.sampled_from((None, "", "a", "b")), more=st.booleans(), rounds=ROUNDS)
    def submit_once_more(self, which: int, tenant: str | None, more: bool, rounds: int) -> None:
        """The same prompt, or one that goes on from its answer, of the same tenant or another."""
        self.ran["submit_once_more"] += 1
        before = self.asked[which % len(self.asked)]
        prompt = before.wish.prompt
        # The text of a marker, or a word that is a token, would be one token of a prompt.
        words = any(mark in before.text for mark in ("<", *WORDS.values()))
        plain = before.end is not None and before.text.isascii() and not words
        if more and plain and len(prompt) + len(before.text) < LONGEST - 30:
            prompt += before.text + " and?"
        self.ask(replace(before.wish, prompt=prompt, tenant=before.wish.tenant if tenant is None else tenant), None)
        self.rounds(rounds)

    @rule(wish=WISHES, more=st.integers(1, 3), rounds=st.sampled_from((1, 2, 0)), late=st.booleans())
    def follow(self, wish: Wish, more: int, rounds: int, late: bool) -> None:
        """Others come with a prompt that is being read, and whoever came first with it leaves."""
        self.ran["follow"] += 1
        wish = replace(wish, prompt=PROMPTS[-1], read_only=False)
        self.ask(wish, None)
        self.rounds(rounds)
        first = self.asked[-1]
        for index in range(more):
            self.ask(replace(wish, n=1 + index), None)
        self.rounds(1 if late else 0)
        if not first.over and first.stream is not None:
            first.stream.cancel()
            first.cancelled = True

    @rule(question=QUESTIONS, seconds=st.sampled_from((None, None, None, 0.1)), rounds=ROUNDS)
    def compute_numbers(self, question: Question, seconds: float | None, rounds: int) -> None:
        self.ran["compute"] += 1
        self.compute(question, seconds)
        self.rounds(rounds)

    @precondition(lambda self: any(not computed.over for computed in self.computed))
    @rule()
    def cancel_numbers(self) -> None:
        self.ran["cancel_numbers"] += 1
        computed = next(computed for computed in self.computed if not computed.over)
        computed.task.cancel()
        computed.cancelled = True

    @running
    @rule(n=st.sampled_from((3, 1, 2, 6, 12)))
    def step(self, n: int) -> None:
        self.ran["step"] += 1
        self.rounds(n)

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
        self.load_another_model(load)

    @worth_a_load
    @rule(wish=WISHES, load=LOADS)
    def free(self, wish: Wish, load: Load) -> None:
        self.ran["free"] += 1
        self.planting.disarm()
        self.count()
        self.unloaded()
        self.engine.until(self.engine.handle.free())
        self.rounds(1)
        assert self.engine.session is None
        with pytest.raises(ModelNotLoaded):
            self.engine.until(self.engine.handle.submit(wish.request("nobody", None)))
        self.load_another_model(load)

    # Faults

    @rule(place=st.sampled_from(KINDS), n=st.sampled_from((1, 2, 3, 5, 9)), wishes=SOME_WISHES, rounds=ROUNDS)
    def plant(self, place: str, n: int, wishes: list[Wish], rounds: int) -> None:
        self.ran["plant"] += 1
        self.planting.arm(place, n)
        self.ask_some(wishes, rounds)

    @rule(wishes=UNLIKE_WISHES, place=st.sampled_from(STEPS), n=st.integers(1, 5), rounds=st.sampled_from((4, 2, 7)))
    def plant_beside(self, wishes: list[Wish], place: str, n: int, rounds: int) -> None:
        """In a step of some, while what others have drawn is on the device."""
        self.ran["plant_beside"] += 1
        self.ask_some([replace(wish, n=20) for wish in wishes], 0)
        self.rounds(rounds)
        self.planting.arm(place, n)
        self.rounds(2)

    # The prompt cache and the budget

    @rule(
        name=st.sampled_from(("rules", "story")),
        text=st.sampled_from(NAMED),
        tenant=st.sampled_from(("", "a")),
        wish=WISHES,
        rounds=ROUNDS,
    )
    def name_prefix(self, name: str, text: str, tenant: str, wish: Wish, rounds: int) -> None:
        """And somebody asks what begins so."""
        self.ran["name"] += 1
        self.name(name, text, tenant)
        self.ask(replace(wish, prompt=text + "and then"), None)
        self.rounds(rounds)

    @precondition(lambda self: self.names.held)
    @rule(name=st.sampled_from(("rules", "story")), tenant=st.sampled_from(("", "a")))
    def delete_name(self, name: str, tenant: str) -> None:
        self.ran["delete_name"] += 1
        self.unname(name, tenant)

    @precondition(lambda self: self.load.idle_s is not None and any(asked.wish.talk for asked in self.asked))
    @rule(seconds=st.sampled_from((40.0, 20.0)))
    def fall_silent(self, seconds: float) -> None:
        """Nobody asks anything until conversations are idle, or nearly."""
        self.ran["fall_silent"] += 1
        self.rest()
        self.engine.clock.now += seconds
        self.rounds(1)
        self.rest()

    @cached
    @rule(tenant=st.sampled_from((None, "", "a", "b")))
    def clear(self, tenant: str | None) -> None:
        self.ran["clear"] += 1
        self.cleared = True
        self.engine.until(self.engine.handle.clear_cache(tenant))
        for held in (self.names.held, self._kept_names):
            for key in [key for key in held if tenant in (None, key[0])]:
                del held[key]
        self.hold_nothing_for_those_that_came()
        for told in self.told:
            for place in [place for place in told if place[0] == self.load.model and tenant in (None, place[1])]:
                # What runs, or waits, may leave something yet.
                told[place] = [asked.tokens for asked in self.asked if not asked.over and asked.wish.tenant == place[1]]
                told[place] += [one.prompt for one in self.computed if not one.over and one.question.tenant == place[1]]

    @cached
    @rule(which=st.integers(0, 99), rounds=ROUNDS)
    def evict(self, which: int, rounds: int) -> None:
        """All that is in memory; a disk below has it yet, and gives it to who asks once more."""
        self.ran["evict"] += 1
        store = self.session.prefix._store
        if self.load.lasting_name is not None:
            store.cache.flush(60)
            self.engine.rest_disk()
        store.clear(None)
        self.names.held = {key: (tokens, False) for key, (tokens, _) in self.names.held.items()}
        self.hold_nothing_for_those_that_came()
        self.ask(self.asked[which % len(self.asked)].wish, None)
        self.rounds(rounds)

    @cached
    @rule(n_bytes=st.integers(0, 120_000))
    def shrink(self, n_bytes: int) -> None:
        self.ran["shrink"] += 1
        self.session.prefix.limit_to(n_bytes)

    @rule(wishes=SOME_WISHES, rounds=ROUNDS)
    def squeeze(self, wishes: list[Wish], rounds: int) -> None:
        """As soon as two rows run there is no room for all, once: one goes back."""
        self.ran["squeeze"] += 1
        self.squeezed = True
        self.ask_some(wishes, rounds)

    @running
    @rule()
    def come_to_rest(self) -> None:
        """Everybody has an end, each is right, and nothing is left."""
        self.ran["come_to_rest"] += 1
        self.rest()

    # What always holds

    @invariant()
    def all_is_well(self) -> None:
        self.check_answers()
        self.check_rows()
