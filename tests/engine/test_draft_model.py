"""A draft model changes no answer, whatever it guesses, whoever comes and goes; and what it costs is bounded."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backend.config import ALL_DRAFTERS, CacheConfig, EngineConfig, ModelConfig
from backend.core.events import FinishReason
from backend.core.request import GenerationRequest, Grammar, Sampling
from backend.engine.batching.drafting import model_drafter
from backend.engine.handle import EngineHandle
from backend.engine.loading import LoadedModel, load_model
from tests.engine.drafting import LoadDoubtful, pay_always, with_draft, without
from tests.engine.harness import NO_CACHE, Answer, read, request, settled, with_engine
from tests.engine.test_exactness import CHUNK, assert_same, schedule, together
from tests.engine.test_speculation import SCHEMA
from tests.rounding import tolerance

SAMPLERS = ("host", "device")
DRAWN = Sampling(temperature=1.0, seed=7, ignore_eos=True)
# Keys and values, states beside them, windows: of the draft model.
DRAFTS = ("qwen3", "qwen3_next", "gemma3_text")
QUICK = (("qwen3", "device"),)
CASES = [
    pytest.param(draft, sampler, marks=() if (draft, sampler) in QUICK else pytest.mark.slow)
    for draft in DRAFTS
    for sampler in SAMPLERS
]
# Three long rows do not fit at once: 1,024 bytes a token, with what the draft model has of it.
TIGHT = 2 * 1024 * 1536


def answers(
    config: ModelConfig,
    wanted: list[GenerationRequest],
    *,
    load: Callable[..., LoadedModel] = load_model,
    crowd: bool = False,
) -> tuple[list[Answer], dict[str, float]]:
    """What is answered, and the figures of the queue after it."""

    async def body(handle: EngineHandle) -> tuple[list[Answer], dict[str, float]]:
        told = await together(handle, wanted, 3) if crowd else [await read(handle, item) for item in wanted]
        return told, await settled(handle)

    return with_engine(config, body, load=load)


def same(ours: list[Answer], theirs: list[Answer]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.end is not None and other.end is not None, (one.error, other.error)
        assert_same(one, other, tolerance("qwen3"))
        assert (one.end.reason, one.text) == (other.end.reason, other.text)


@pytest.mark.parametrize(("draft", "sampler"), CASES)
def test_whatever_it_guesses_the_answers_are_those_without(
    draft: str, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(max_rows=6, prefill_chunk=CHUNK, sampler=sampler)  # type: ignore[arg-type]
    config = with_draft(tmp_path, draft=draft, engine=engine, cache=CacheConfig(max_sequences=8, max_bytes=1 << 22))
    wanted = [replace(item, max_tokens=3 * (item.max_tokens or 1)) for item in schedule(3, 10)]
    plain, _ = answers(without(config), wanted)
    pay_always(monkeypatch)
    ours, queue = answers(config, wanted, load=LoadDoubtful(3), crowd=True)
    same(ours, plain)
    assert queue["drafted_tokens.draft"] > queue["accepted_tokens.draft"] > 0 or draft != "qwen3"
    assert queue["speculation.drafting_rounds"] > 20 and queue["live_kv_bytes"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_grammars_stops_limits_and_rows_that_go_and_come_back(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(max_rows=6, prefill_chunk=CHUNK, sampler=sampler, kv_bytes=TIGHT)  # type: ignore[arg-type]
    # With a cache, those that come back begin with what either model had of them, as far as there is room for it.
    cache = CacheConfig() if sampler == "host" else NO_CACHE
    config = with_draft(tmp_path, engine=engine, drafters=ALL_DRAFTERS, cache=cache)
    first = request("1 says " * 4, n=60, name="p", sampling=DRAWN)
    (known,), _ = answers(without(config), [first])
    wanted = [
        replace(first, request_id="s", stop=(known.text[len(known.text) // 2 :][:2] or "x",)),
        request("a list", n=60, name="g0", grammar=Grammar(kind="json_schema", text=SCHEMA)),
        request("a word", n=40, name="g1", sampling=DRAWN, grammar=Grammar(kind="regex", text="[a-z ]{20,30}[.]")),
        request("biased", n=30, name="b", sampling=replace(DRAWN, logit_bias=((70, 4.0), (71, -9.0)))),
        request("endless", n=50, name="e", sampling=replace(DRAWN, frequency_penalty=0.7)),
        request("one", n=1, name="o"),
        request("x", n=20, name="x", sampling=DRAWN),
        replace(request("capped", n=40, name="c", sampling=DRAWN), max_draft=1),
        *(request(f"long {i} " * 12, n=250, name=f"l{i}", sampling=replace(DRAWN, seed=i)) for i in range(3)),
    ]
    plain, _ = answers(without(config), wanted)
    pay_always(monkeypatch)
    ours, queue = answers(config, wanted, load=LoadDoubtful(4), crowd=True)
    same(ours, plain)
    assert queue["preemptions"] > 0 and queue["accepted_tokens.draft"] > 50
    reasons = {item.request_id: answer.end.reason for item, answer in zip(wanted, ours, strict=True) if answer.end}
    assert reasons["s"] is FinishReason.STOP_STRING and reasons["o"] is FinishReason.LENGTH


@pytest.mark.parametrize("sampler", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_a_draft_model_of_the_same_weights_is_right_in_answers_that_are_drawn_too(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's draws have noise of their own place in the answer, and its guesses have the same."""
    config = with_draft(tmp_path, engine=EngineConfig(sampler=sampler))  # type: ignore[arg-type]
    pay_always(monkeypatch)
    wanted = [
        request("Once upon", n=60, name="greedy"),
        request("a time", n=60, name="drawn", sampling=replace(DRAWN, top_k=40, top_p=0.9)),
    ]
    told, queue = answers(config, wanted, crowd=True)
    assert queue["accepted_tokens"] == queue["drafted_tokens"] > 50
    ends = [answer.end.usage for answer in told if answer.end is not None]
    assert sum(usage.accepted_tokens for usage in ends) == queue["accepted_tokens"]


@pytest.mark.slow
def test_one_that_is_never_right_is_given_up_and_costs_what_the_account_bears(tmp_path: Path) -> None:
    config = with_draft(tmp_path, seed=9)
    wanted = [request(f"{i} goes on", n=200, name=f"r{i}", sampling=replace(DRAWN, seed=i)) for i in range(4)]
    plain, _ = answers(without(config), wanted)
    ours, queue = answers(config, wanted)
    same(ours, plain)
    assert 0 < queue["speculation.drafting_rounds"] < 100
    assert queue["speculation.plain_steps"] > 600 and queue["speculation.account"] > -10


@pytest.mark.parametrize(
    ("fault", "sampler"),
    [
        ("step", "host"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("wait", "device"),
                ("step", "device"),
                ("wait", "host"),
                ("caches", "host"),
                ("reading", "host"),
                ("reading", "device"),
            )
        ),
    ],
)
def test_one_that_fails_stops_and_no_answer_is_another(
    fault: str, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_draft(tmp_path, engine=EngineConfig(sampler=sampler))  # type: ignore[arg-type]
    wanted = [request(f"{i} goes on", n=60, name=f"r{i}", sampling=replace(DRAWN, seed=i)) for i in range(3)]
    plain, _ = answers(without(config), wanted)
    pay_always(monkeypatch)
    load = LoadFailing()

    async def body(handle: EngineHandle) -> list[Answer]:
        assert handle.info().details["speculation"] == "draft; up to 16 tokens"
        plant(fault, load, monkeypatch)
        ours = await asyncio.gather(*(read(handle, item) for item in wanted))
        queue = await settled(handle)
        assert queue["failed"] == 0 and queue["live_kv_bytes"] == 0
        assert handle.info().details["speculation"] == "off: draft stopped: its model failed (Planted)"
        return list(ours)

    same(with_engine(config, body, load=load), plain)
    assert [record.message.split()[0] for record in caplog.records].count("draft_model_stopped") == 1
    assert "planted" not in caplog.text


@pytest.mark.slow
def test_what_it_holds_goes_before_any_row_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_draft(tmp_path)
    wanted = [request(f"{i} goes on", n=60, name=f"r{i}", sampling=replace(DRAWN, seed=i)) for i in range(3)]
    plain, _ = answers(without(config), wanted)
    pay_always(monkeypatch)
    nbytes, let_go = model_drafter.ModelDrafter.nbytes, list[int]()

    def too_many(self: model_drafter.ModelDrafter) -> int:
        held = nbytes(self)
        return held << 40 if len(let_go) < 2 else held

    abandon = model_drafter.ModelDrafter.abandon

    def counted(self: model_drafter.ModelDrafter) -> None:
        let_go.append(nbytes(self))
        abandon(self)

    monkeypatch.setattr(model_drafter.ModelDrafter, "nbytes", too_many)
    monkeypatch.setattr(model_drafter.ModelDrafter, "abandon", counted)
    ours, queue = answers(config, wanted, crowd=True)
    same(ours, plain)
    assert queue["preemptions"] == 0 and len(let_go) >= 2 and all(let_go[:2]) and queue["accepted_tokens"] > 0


class Planted(Exception):
    """What a device would raise."""


class LoadFailing:
    """`load_model`, with a draft model that fails, once armed: in the n-th call of a shape, or as it makes caches."""

    def __init__(self) -> None:
        self.left = 0
        self.caches = False
        self.counts: Callable[[tuple[int, int]], bool] = lambda _: False

    def __call__(self, *args: object, **options: object) -> LoadedModel:
        loaded = load_model(*args, **options)  # type: ignore[arg-type]
        if loaded.draft is None:
            return loaded
        inner, new_cache = loaded.draft.model, loaded.draft.new_cache

        def failing_cache() -> object:
            if self.caches:
                raise Planted("planted")
            return new_cache()

        def failing(tokens: object, **given: object) -> object:
            if self.left and self.counts(tokens.shape):  # type: ignore[attr-defined]
                self.left -= 1
                if not self.left:
                    raise Planted("planted")
            return inner(tokens, **given)

        return replace(loaded, draft=replace(loaded.draft, model=failing, new_cache=failing_cache))


def plant(fault: str, load: LoadFailing, patched: pytest.MonkeyPatch) -> None:
    if fault == "step":
        load.left, load.counts = 9, lambda shape: shape[1] == 1
    elif fault == "caches":
        load.caches = True
    elif fault == "reading":
        load.left, load.counts = 2, lambda shape: shape[0] == 1 and shape[1] > 3
    else:
        wait, left = model_drafter.wait, [5]

        def failing(*arrays: object) -> None:
            left[0] -= 1
            wait(*arrays)
            if left[0] == 0:
                raise Planted("planted")

        patched.setattr(model_drafter, "wait", failing)
