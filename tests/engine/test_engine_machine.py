"""Any history of an engine: each answer is the one that the model gives alone, each request ends once, nothing is left.

A few histories run with every change, more of them among the slow tests, and as many as one likes with
`pytest -n 0 -m slow -k more --log-cli-level info --machine-minutes 10 tests/engine/test_engine_machine.py`.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from backend.core.logline import logline
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.decoding import Decoding
from backend.engine.batching.kept_conversations import KeptConversations
from backend.engine.batching.pooled import results
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.pooled.units import TailRun
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.row import Row
from backend.engine.batching.tenant_store import TenantStore
from backend.engine.batching.verification import Verification
from tests import chosen
from tests.engine.machine.machine import EngineMachine
from tests.engine.machine.wishes import Load, Wish

log = logging.getLogger(__name__)

# Whole keys and values, windows, states; each batch of each.
FAMILIES = ("qwen3", "gemma3_text", "qwen3_next", "mamba2")
ALL = [(family, sampler) for family in FAMILIES for sampler in ("host", "device")]
QUICK = [("qwen3", "device", 3), ("qwen3_next", "host", 1)]
FEW = settings(
    max_examples=2,
    stateful_step_count=16,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
MANY = settings(FEW, max_examples=12, stateful_step_count=30)
BUG = settings(MANY, max_examples=60, phases=(Phase.generate,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machines")


def run(machine: type[EngineMachine], number: int, how: settings) -> None:
    """Histories of a seed; what ran in them is in the log."""
    seed(number)(machine)
    try:
        run_state_machine_as_test(machine, settings=how)
    except BaseException as error:
        error.add_note(f"again with --machine-seed {number}")
        raise
    finally:
        counts = {**machine.ran, **{name.replace(" ", "_"): n for name, n in machine.totals.items()}}
        log.info(logline("machine", family=machine.family, sampler=machine.sampler, **counts))


# A history that fails is made shorter for five minutes at most.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("family", "sampler", "number"), QUICK)
def test_any_history_ends_right(folder: Path, family: str, sampler: Any, number: int) -> None:
    machine = EngineMachine.of(folder, family, sampler)
    run(machine, number, FEW)
    assert machine.totals["generated_tokens"] > 20


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("family", "sampler"), ALL)
def test_more_histories_end_right(folder: Path, family: str, sampler: Any) -> None:
    """A dozen, and on until the minutes that were asked for are over; each dozen has another seed."""
    machine = EngineMachine.of(folder, family, sampler)
    for number in _numbers():
        run(machine, number, MANY)
    assert machine.totals["cached_tokens"] > 0 and machine.totals["generated_tokens"] > 200


def _numbers() -> Iterator[int]:
    until, number = time.monotonic() + 60 * chosen.machine_minutes, chosen.machine_seed
    while True:
        yield number
        number += 1
        if time.monotonic() >= until:
            return


def _forget_followers(self: Prefills, row: Row) -> None:
    self._stop_reading(row)
    self.rows.remove(row)


def _read_what_everybody_has(self: PrefixCache, tokens: Any, tenant: str) -> list[Any]:
    return [*SOUND[PrefixCache, "_readable"](self, tokens, tenant), ("", tokens)]


def _keep_what_is_idle(self: KeptConversations, leaves: Any) -> None:
    for _ in leaves:
        pass


def _leave_the_row_its_kv(self: Pooled, row: Row) -> None:
    caches = row.caches
    SOUND[Pooled, "remove"](self, row)
    row.caches = caches


def _store_codes_of_codes(
    self: PrefixCache, tokens: Any, caches: list[Any], tenant: str = "", *, restored: int = 0
) -> None:
    if self.lossy and restored:
        self._store.clear(tenant)
    self._store.insert(tokens, caches, tenant)


def _restart_with_what_was_drawn(self: Decoding, group: DecodeBatch) -> None:
    ahead = [(row, list(row.sampling.drawn_ahead)) for row in group.rows]
    SOUND[Decoding, "_restart_batch"](self, group)
    for row, drawn in ahead:
        row.sampling.drawn_ahead.extend(drawn)


def _keep_one_more(self: Verification) -> None:
    self._run.keep([min(n + 1, self._run.width) for n in self.drawn])


# By the batch that has it, and a seed that finds it within a dozen histories, or so.
BUGS: dict[str, tuple[Any, str, Any, Any, int]] = {
    "tenants have one key": (TenantStore, "key_of", lambda self, tenant: (self._key, ""), "host", 1),
    "a wrong guess stays in the cache": (Verification, "close", _keep_one_more, "host", 1),
    "who comes back has forgotten what was drawn": (Row, "to_feed", lambda self: self.submit.prompt.tokens, "host", 1),
    "who waits for a prompt that is gone is forgotten": (Prefills, "remove", _forget_followers, "host", 1),
    "what is drawn ahead outlives its batch": (Decoding, "_restart_batch", _restart_with_what_was_drawn, "device", 1),
    "a tenant reads what has none": (PrefixCache, "_readable", _read_what_everybody_has, "host", 1),
    "a conversation is not forgotten": (KeptConversations, "_drop", _keep_what_is_idle, "host", 1),
    "a row that is computed keeps its KV": (Pooled, "remove", _leave_the_row_its_kv, "host", 1),
    "a tail stays behind its prompt": (TailRun, "cut_back", lambda self: None, "host", 1),
    "no is taken for yes": (results, "chance", lambda logits: SOUND[results, "chance"](logits[::-1]), "host", 1),
    "codes are made of codes": (PrefixCache, "insert", _store_codes_of_codes, "host", 1),
}  # fmt: skip
SOUND = {(owner, attribute): getattr(owner, attribute) for owner, attribute, *_ in BUGS.values()}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_planted_bug_is_found(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, bug, sampler, number = BUGS[name]
    monkeypatch.setattr(owner, attribute, bug)
    with pytest.raises(AssertionError):
        run(EngineMachine.of(folder, "qwen3", sampler), number, BUG)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [False, True])
def test_a_batch_that_is_lost_beside_another_shows_what_outlives_it(
    bug: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortest history that shows it, whatever hypothesis makes up."""
    if bug:
        monkeypatch.setattr(Decoding, "_restart_batch", _restart_with_what_was_drawn)
    machine = EngineMachine.of(folder, "qwen3", "device")()
    machine.begin(Load(apart=True), 0)
    machine.submit_some([Wish("a", 20, draws="drawn"), Wish("short, and then some", 20, draws="drawn")], 4)
    machine.planting.arm("sampler", 1)
    try:
        with pytest.raises(AssertionError) if bug else nullcontext():
            machine.rest()
        assert machine.session.counters.failed == 1
    finally:
        machine.patched.undo()
        machine.engine.close()
