"""What is asked of the engine of a history: answers, numbers, names; with what each must be answered."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backend.core.errors import DeadlineExceeded, InternalFault, InvalidRequest, Overloaded, WorkerError
from backend.core.request import GenerationRequest
from mlx_cache.tree import common_prefix
from tests.engine.machine.alone import alone
from tests.engine.machine.asked import Asked, Right, right
from tests.engine.machine.numbers import Computed, Question, prompt_of, right_numbers
from tests.engine.machine.subject import MOST_ROUNDS, Subject
from tests.engine.machine.wishes import Wish
from tests.straight import Straight


@cache
def straight(folder: Path) -> Straight:
    """A directory's model, for numbers."""
    return Straight(folder)


class Asking(Subject):
    """A subject that is asked something."""

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
        current = self.engine.handle._loads.current
        assert current is not None
        self.planting.quiet = True
        numbers = right_numbers(question, current.pooled, alone(path), straight(path), load.form)
        prompt = prompt_of(question, current.pooled)
        self.planting.quiet = False
        place, hit = (load.model, question.tenant), 0
        if len(prompt):
            others = [*self.seen.get(place, ()), *self._of_everybody()]
            # Where something fails it may begin anew, from what it has stored itself; and others' come meanwhile.
            busy = any(not one.over for one in (*self.asked, *self.computed)) or load.tight or self.planting.armed
            hit = len(prompt) if busy else max((common_prefix(prompt, told) for told in others), default=0)
            for told in self.told:
                told.setdefault(place, []).append(prompt)
        task = self.engine.submitted(self.engine.handle.compute(question.request(name, deadline)))
        computed = Computed(
            name=name, question=question, prompt=prompt, right=numbers, task=task, deadline=deadline, hit=hit
        )
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
        if self.load.lasting_name is not None:
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
        self.hold_nothing_for_those_that_came()
