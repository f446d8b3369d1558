"""Faults at each call in turn: of the model's steps and draws, of what the device's batch has ahead of the host, of
passes over guessed tokens, and of a draft model's steps, caches and waits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.config import ALL_DRAFTERS, Drafter
from backend.engine import waits
from backend.engine.batching.drafting import lane as lane_module
from backend.engine.batching.drafting.draws import DeviceDraws, HostDraws
from backend.engine.batching.drafting.lane import Lane
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.batching.verification import Verification
from backend.engine.handle import EngineHandle
from backend.engine.kv.going_back import Pass
from backend.engine.loading import LoadedModel, load_model
from backend.engine.sampling.device.sampler import DeviceSampler, LazySample
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.speculation.proposal import Proposal
from tests.engine.drafting import MODEL_ALONE, pay_always
from tests.engine.each_call import AGAIN, ask, at_each_call, cases, nobody, run
from tests.engine.owners import a_draft_model_works, names_of, whose
from tests.engine.planted import FaultAtCall
from tests.models import write_model

STEPS = ((HostSampler, "draw"), (DeviceSampler, "sample_lazy"), (LazySample, "collect"), (waits, "put"))
PASSES = (*STEPS, (Verification, "next"), (Verification, "close"), (Pass, "keep"))
DRAFTING = (
    *((Lane, name) for name in ("join", "leave", "draft", "fed", "arrays")),
    *((lane_module, name) for name in ("merged", "copied", "row_cache")),
    (Pass, "keep"), (HostDraws, "__call__"), (DeviceDraws, "__call__"), (waits, "evaluate"), (waits, "put"),
)  # fmt: skip


class Planted(Exception):
    """What a device or a library would raise."""


class Watching:
    """`load_model`, with models whose calls count, and caches that a draft model makes."""

    def __init__(self) -> None:
        self.fault: FaultAtCall | None = None

    def __call__(self, *args: Any, **options: Any) -> LoadedModel:
        """Both models."""
        loaded, fault = load_model(*args, **options), self.fault
        assert fault is not None
        draft = loaded.draft
        if draft is None:
            return replace(loaded, model=fault.watched(loaded.model, "model"))
        calls = {"model": draft.model, "new_cache": draft.new_cache}
        return replace(loaded, draft=replace(draft, **{name: fault.watched(own, name) for name, own in calls.items()}))


def guess(known: dict[str, list[int]]) -> Callable[..., Plan | None]:
    """Two tokens that are right, and one that is not, of each row."""

    def proposal(row: Row) -> Proposal | None:
        n = len(row.generated) + len(row.sampling.drawn_ahead)
        coming = known.get(row.request.request_id, [])[n : n + 3]
        tokens = [*coming[:2], *(token ^ 1 for token in coming[2:])]
        return Proposal(tuple(tokens), Drafter.TEXT, (1.0,) * len(tokens)) if tokens else None

    def plan(self: Speculating, rows: list[Row], *, spare: Any) -> Plan | None:
        proposals = [proposal(row) for row in rows]
        return proposals if any(proposals) else None

    return plan


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


@pytest.mark.parametrize(("first", "stride"), cases(7, 29, 1, 2))
@pytest.mark.parametrize(
    ("sampler", "guessed"),
    [
        pytest.param(sampler, guessed, id=f"{sampler}-{name}", marks=() if quick else pytest.mark.slow)
        for sampler, guessed, name, quick in (
            ("device", False, "steps", True),
            ("host", True, "passes", True),
            ("host", False, "steps", False),
            ("device", True, "passes", False),
        )
    ],
)
def test_whichever_step_draw_or_look_ahead_fails_those_end_whose_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, guessed: bool, sampler: Any, first: int, stride: int
) -> None:
    hit: set[str] = set()

    def fail(*args: Any, **kwargs: Any) -> None:
        hit.update(names_of(whose()))
        raise Planted("planted")

    def those(happened: str, lost: list[str]) -> bool:
        names, named = set(hit), {name.removesuffix(AGAIN) for name in lost}
        hit.clear()
        return names == named

    load = Watching()
    load.fault = fault = FaultAtCall(monkeypatch, PASSES if guessed else STEPS, fail)
    known: dict[str, list[int]] = {}

    async def body(handle: EngineHandle) -> None:
        known.update({name: answer.tokens for name, answer in (await ask(handle)).items()})
        await at_each_call(handle, fault, first, stride, those)

    if guessed:
        monkeypatch.setattr(Speculating, "plan", guess(known))
    run(path, body, sampler=sampler, load=load, drafters=ALL_DRAFTERS if guessed else frozenset())
    drawn = "HostSampler.draw" if sampler == "host" else "LazySample.collect"
    assert {"model", "backend.engine.waits.put", drawn} <= fault.seen
    assert not guessed or {"Verification.next", "Pass.keep"} <= fault.seen


@pytest.mark.parametrize(("first", "stride"), cases(5, 61, 1, 2))
@pytest.mark.parametrize("sampler", [pytest.param("host", marks=pytest.mark.slow), "device"])
@pytest.mark.parametrize("draft", ["qwen3", pytest.param("qwen3_next", marks=pytest.mark.slow)])
def test_whichever_call_of_a_draft_model_fails_no_request_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draft: str, sampler: Any, first: int, stride: int
) -> None:
    """Its steps, its caches, its draws and its waits; it stops, and rows go on without it."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise Planted("planted")

    def fresh(session: Session) -> None:
        drafting = session.speculating.drafting
        assert drafting is not None
        drafting.drafter.fault = ""
        pay_always(monkeypatch)

    load = Watching()
    load.fault = fault = FaultAtCall(monkeypatch, DRAFTING, fail, a_draft_model_works)
    second = write_model(tmp_path / draft, draft)
    pay_always(monkeypatch)
    run(
        path,
        lambda handle: at_each_call(handle, fault, first, stride, nobody, fresh=fresh),
        sampler=sampler,
        load=load,
        drafters=MODEL_ALONE,
        draft_candidates=(str(second),),
    )
    assert {"model", "new_cache", "Lane.draft", "Lane.join", "backend.engine.waits.evaluate"} <= fault.seen
