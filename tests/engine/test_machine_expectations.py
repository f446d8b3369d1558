"""What histories expect of an engine is what it promises: short ones, each of which was taken for a fault of its."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from backend.core.pooled import EmbedAsk
from backend.engine.preparing.requests import RequestPreparer
from tests.engine.machine.machine import EngineMachine
from tests.engine.machine.numbers import Question
from tests.engine.machine.wishes import NAMED, Load, Wish

WISH = Wish(NAMED[0] + "and then", 1)
DISK = Load(disk=True)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> type[EngineMachine]:
    return EngineMachine.of(tmp_path_factory.mktemp("machines"), "qwen3", "host")


@pytest.fixture
def machine(machines: type[EngineMachine]) -> Iterator[EngineMachine]:
    machine = machines()
    yield machine
    machine.teardown()


@pytest.mark.parametrize("other", [Load(disk=True, sequences=0), Load(disk=True, isolation="strict"), Load()])
def test_a_name_is_expected_where_the_directory_has_it_for_such_a_load(machine: EngineMachine, other: Load) -> None:
    machine.begin(DISK, 0)
    machine.name("rules", NAMED[0], "")
    for load in (other, DISK):
        machine.load_another_model(load)
        machine.rest()
    assert machine.names.held.keys() == {("", "rules")}


def test_what_is_cleared_in_one_form_is_expected_in_the_other(machine: EngineMachine) -> None:
    machine.begin(DISK, 0)
    machine.ask(WISH, None)
    machine.rest()
    machine.load_another_model(Load(disk=True, stored_bits=8))
    machine.ask(WISH, None)
    machine.rest()
    machine.clear(None)
    machine.load_another_model(DISK)
    machine.ask(WISH, None)
    machine.rest()
    assert machine.session.counters.cached_tokens > 0


def test_a_fault_of_the_prompt_cache_may_cost_a_hit_of_what_has_a_name(machine: EngineMachine) -> None:
    machine.begin(Load(), 0)
    machine.name("rules", NAMED[0], "")
    machine.planting.arm("cache", 1)
    machine.ask(WISH, None)
    machine.rounds(9)
    assert machine.asked[0].least and machine.asked[0].end is not None
    machine.all_is_well()
    assert not machine.session.counters.cached_tokens


def test_numbers_that_are_long_in_the_making_are_waited_for(
    machine: EngineMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also right behind a request that the engine has not taken yet."""
    turns, late, prepare = 0, threading.Event(), RequestPreparer.prepare_pooled
    machine.begin(Load(), 0)
    let_run = machine.engine._let_run

    def counted(seconds: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 20:
            late.set()
        let_run(seconds)

    def slow(self: RequestPreparer, *args: Any) -> Any:
        assert late.wait(20)
        return prepare(self, *args)

    machine.ask(WISH, None)
    monkeypatch.setattr(RequestPreparer, "prepare_pooled", slow)
    monkeypatch.setattr(machine.engine, "_let_run", counted)
    machine.compute(Question(EmbedAsk(text="a")), None)
    machine.all_is_well()
