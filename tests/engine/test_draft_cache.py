"""What a draft model has read is kept for rows to come: it reads what is new, and no answer is another for it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig, ModelConfig
from backend.core.request import GenerationRequest, Sampling
from backend.engine.handle import EngineHandle
from tests.engine.drafting import LoadDoubtful, pay_always, with_draft, without
from tests.engine.harness import Answer, read, request, settled, with_engine
from tests.engine.test_draft_model import DRAWN, same
from tests.engine.test_exactness import CHUNK, schedule, together

CACHE = CacheConfig(max_bytes=1 << 24)
LONG = "Once upon a time there was a prompt of many words. " * 5
# Tokens that are read together with the first guesses, and of a text that is told again in other tokens.
FEW = 40
QUICK = (("qwen3", "device"),)
CASES = [
    pytest.param(draft, sampler, marks=() if (draft, sampler) in QUICK else pytest.mark.slow)
    for draft in ("qwen3", "qwen3_next", "gemma3_text")
    for sampler in ("host", "device")
]
# In short time a crowd over a cache is that of `test_draft_model`.
CROWDS = (
    ("qwen3", "host"),
    ("qwen3", "device"),
    ("qwen3_next", "host"),
    ("qwen3_next", "device"),
    ("gemma3_text", "host"),
)
Figures = dict[str, float]


def asked(text: str, name: str = "r", **options: Any) -> GenerationRequest:
    return request(text, n=30, name=name, **{"sampling": DRAWN, **options})


def drafted(figures: Figures) -> tuple[float, float]:
    """Tokens that the draft model has read, and those that were kept for it."""
    return figures["speculation.draft_read_tokens"], figures["speculation.draft_cached_tokens"]


def serve(
    config: ModelConfig, body: Callable[[EngineHandle], Awaitable[Any]], patched: pytest.MonkeyPatch, **load: Any
) -> Any:
    pay_always(patched)
    return with_engine(config, body, **load)


async def after(handle: EngineHandle, wanted: GenerationRequest, **options: Any) -> tuple[Answer, Figures]:
    answer = await read(handle, wanted, **options)
    return answer, await settled(handle)


async def of_both(handle: EngineHandle, work: Callable[[Any, Any], Any]) -> Any:
    """What `work` makes of the prompt cache of the model and of the draft model's."""

    def with_stores(session: Any) -> Any:
        store = session.prefix._store
        return work(store.cache, store.drafts.cache)

    return await handle.with_session(with_stores)


@pytest.mark.parametrize(("draft", "sampler"), CASES)
def test_at_later_turns_of_a_conversation_only_what_is_new_is_read(
    draft: str, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(prefill_chunk=CHUNK, sampler=sampler)  # type: ignore[arg-type]
    config = with_draft(tmp_path, draft=draft, engine=engine, cache=CACHE)

    async def turns(handle: EngineHandle) -> list[tuple[Answer, Figures]]:
        told: list[tuple[Answer, Figures]] = []
        text = LONG
        for turn in range(4):
            told.append(await after(handle, asked(text, f"t{turn}")))
            text += told[-1][0].text + " and then?"
        return told

    plain = with_engine(without(config), turns)
    ours = serve(config, turns, monkeypatch, load=LoadDoubtful(5))
    same([answer for answer, _ in ours], [answer for answer, _ in plain])
    figures = [queue for _, queue in ours]
    first = figures[0]["prompt_tokens"]
    assert drafted(figures[0]) == (first - 1, 0)
    for before, now in itertools.pairwise(figures):
        again, kept = (b - a for a, b in zip(drafted(before), drafted(now), strict=True))
        prompt = now["prompt_tokens"] - before["prompt_tokens"]
        # A window that went back, or a state, may be found at an earlier place than its end.
        new = now["prefilled_tokens"] - before["prefilled_tokens"] + (0 if draft == "qwen3" else 2 * FEW)
        assert again <= new < prompt / 2 and kept >= prompt - new - FEW
    told = figures[-1]
    assert 0 < told["cached_draft_kv_bytes"] < told["cached_kv_bytes"] and told["live_kv_bytes"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["device", "host"])
def test_whichever_of_both_has_been_evicted_the_answer_is_the_same(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(prefill_chunk=CHUNK, sampler=sampler)  # type: ignore[arg-type]
    config = with_draft(tmp_path, engine=engine, cache=CACHE)
    (plain,) = with_engine(without(config), lambda handle: asyncio.gather(read(handle, asked(LONG))))
    tokens = len(LONG)

    async def body(handle: EngineHandle) -> None:
        answer, queue = await after(handle, asked(LONG))
        same([answer], [plain])
        for lost, read_again, prefilled_again in (
            (lambda _, drafts: drafts.clear(), True, False),
            (lambda model, _: model.clear(), False, True),
            (lambda _, drafts: drafts.trim_to(n_bytes=drafts.nbytes // 2), True, False),
            (lambda *_: None, False, False),
        ):
            await of_both(handle, lost)
            before = queue
            answer, queue = await after(handle, asked(LONG))
            same([answer], [plain])
            again = drafted(queue)[0] - drafted(before)[0]
            assert (again > tokens / 4) == read_again and again < tokens
            assert (queue["prefilled_tokens"] - before["prefilled_tokens"] > tokens / 2) == prefilled_again

    serve(config, body, monkeypatch, load=LoadDoubtful(5))


@pytest.mark.parametrize(
    ("draft", "sampler"),
    [pytest.param(*case, marks=pytest.mark.slow) for case in CROWDS],
)
def test_in_a_crowd_over_a_small_cache_answers_are_those_without_and_neither_takes_more_than_its_part(
    draft: str, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = 96 << 10 if draft == "qwen3" else 1536 << 10
    engine = EngineConfig(prefill_chunk=CHUNK, max_rows=6, sampler=sampler)  # type: ignore[arg-type]
    config = with_draft(tmp_path, draft=draft, engine=engine, cache=CacheConfig(max_bytes=small))
    wanted = [replace(item, max_tokens=24) for item in schedule(7, 14)] * 2
    alone = [replace(item, cache_read_only=True) for item in wanted[:14]]
    plain = with_engine(without(config), lambda handle: _one_by_one(handle, alone))
    seen: list[tuple[int, int]] = []

    async def body(handle: EngineHandle) -> tuple[list[Answer], Figures, float]:
        share = await handle.with_session(lambda session: session.prefix._store.beside.share)

        def watch(session: Any) -> None:
            store, insert = session.prefix._store, session.prefix._store.insert_draft

            def watched(*arguments: Any) -> None:
                insert(*arguments)
                seen.append((store.draft_nbytes, store.nbytes))

            store.insert_draft = watched

        await handle.with_session(watch)
        return await together(handle, wanted, 5), await settled(handle), share

    ours, queue, share = serve(config, body, monkeypatch, load=LoadDoubtful(4))
    same(ours, plain * 2)
    assert queue["speculation.draft_cached_tokens"] > 0
    assert len(seen) > 20 and max(drafts for drafts, _ in seen) > share * small / 2
    assert all(drafts <= share * small and both <= small for drafts, both in seen)


async def _one_by_one(handle: EngineHandle, wanted: list[GenerationRequest]) -> list[Answer]:
    return [await read(handle, item) for item in wanted]


def test_a_row_that_was_cancelled_leaves_what_was_read_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_draft(tmp_path, engine=EngineConfig(prefill_chunk=CHUNK), cache=CACHE)
    (plain,) = with_engine(without(config), lambda handle: asyncio.gather(read(handle, asked(LONG))))

    async def body(handle: EngineHandle) -> None:
        await read(handle, replace(asked(LONG), max_tokens=300), cancel_after=3)
        before = await settled(handle)
        assert before["cancelled"] == 1
        answer, queue = await after(handle, asked(LONG))
        same([answer], [plain])
        again, kept = (b - a for a, b in zip(drafted(before), drafted(queue), strict=True))
        assert again == 0 and kept >= len(LONG) - 1

    serve(config, body, monkeypatch)


@pytest.mark.slow
def test_requests_that_leave_nothing_leave_nothing_here_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_draft(tmp_path, cache=CACHE)

    async def body(handle: EngineHandle) -> None:
        _, queue = await after(handle, asked(LONG, cache_read_only=True))
        assert queue["cached_draft_kv_bytes"] == queue["cached_kv_bytes"] == 0 < drafted(queue)[0]
        answer, queue = await after(handle, asked(LONG, cache_answer=False))
        per_token = await handle.with_session(lambda session: session.loaded.draft.kv_cost.per_token)
        assert queue["cached_draft_kv_bytes"] == per_token * (len(LONG) - 1)
        follow_up = asked(LONG + answer.text + "?", cache_read_only=True)
        assert drafted((await after(handle, follow_up))[1])[1] == len(LONG) - 1

    serve(config, body, monkeypatch)


def test_no_tenant_finds_what_another_has_left_but_for_what_was_named_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_draft(tmp_path, cache=CACHE)

    async def body(handle: EngineHandle) -> None:
        def found(before: Figures, now: Figures) -> float:
            return drafted(now)[1] - drafted(before)[1]

        _, start = await after(handle, asked(LONG, tenant="ours"))
        _, theirs = await after(handle, asked(LONG, tenant="theirs"))
        _, ours = await after(handle, asked(LONG, tenant="ours"))
        assert (found(start, theirs), found(theirs, ours)) == (0, len(LONG) - 1)
        # Named for everybody, and read for somebody without a tenant.
        await handle.create_prefix(request(LONG, keep_as="rules", prefill_only=True))
        _, host = await after(handle, asked(LONG + " a"))
        _, others = await after(handle, asked(LONG + " b", tenant="others"))
        assert (found(ours, host), found(host, others)) == (0, len(LONG))

    serve(config, body, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["balanced", "strict"])
def test_other_modes_of_isolation_hold_here_too(
    isolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(isolation=isolation)  # type: ignore[arg-type]
    config = with_draft(tmp_path, engine=engine, cache=CACHE)

    async def body(handle: EngineHandle) -> tuple[float, float]:
        await handle.create_prefix(request(LONG, keep_as="rules", prefill_only=True))
        for tenant in ("", "others"):
            answer = await read(handle, asked(LONG + " a", tenant=tenant))
            assert answer.end is not None, answer.error
        await settled(handle)
        told = await handle.with_session(lambda session: (session.speculating.figures(), session.prefix.draft_nbytes))
        return told[0]["draft_cached_tokens"], told[1]

    cached, nbytes = serve(config, body, monkeypatch)
    assert cached == 0 and (nbytes > 0) == (isolation == "balanced")


def test_what_is_cleared_is_gone_and_what_was_read_before_is_not_kept_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_draft(tmp_path, cache=CACHE)

    async def body(handle: EngineHandle) -> None:
        await after(handle, asked(LONG, tenant="ours"))
        await after(handle, asked(LONG, tenant="theirs"))
        both = (await settled(handle))["cached_draft_kv_bytes"]
        await handle.clear_cache("ours")
        left = (await settled(handle))["cached_draft_kv_bytes"]
        # The newest tokens are read with the next guesses, if there are any.
        assert abs(left * 2 - both) < both / 10
        running = asyncio.ensure_future(read(handle, replace(asked(LONG, tenant="ours"), max_tokens=120)))
        while handle.info().queue["speculation.draft_read_tokens"] <= 2 * len(LONG):
            await asyncio.sleep(0.002)
        await handle.clear_cache(None)
        await running
        queue = await settled(handle)
        assert queue["cached_draft_kv_bytes"] == queue["cached_kv_bytes"] == 0

    serve(config, body, monkeypatch)


@pytest.mark.slow
def test_a_model_that_slept_finds_what_its_draft_model_had_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(with_draft(tmp_path, cache=CACHE))
    config = replace(config, engine=replace(config.engine, model_idle_s=0.05))

    async def body(handle: EngineHandle) -> None:
        _, before = await after(handle, asked(LONG))
        while "idle" not in handle.info().details:
            await asyncio.sleep(0.01)
        assert handle.info().queue["cached_draft_kv_bytes"] == before["cached_draft_kv_bytes"] > 0
        _, queue = await after(handle, asked(LONG))
        assert drafted(queue) == (0, len(LONG) - 1)

    serve(config, body, monkeypatch)


QUICK_FAULTS = (("restore", "device"),)


class Planted(Exception):
    """What a device would raise."""


@pytest.mark.parametrize(
    ("fault", "sampler"),
    [
        pytest.param(*case, marks=() if case in QUICK_FAULTS else pytest.mark.slow)
        for case in itertools.product(("match_length", "fetch", "insert", "restore", "copy_blocks"), ("host", "device"))
    ],
)
def test_a_fault_in_it_costs_a_hit_or_a_store_and_no_answer(
    fault: str, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_draft(tmp_path, engine=EngineConfig(sampler=sampler), cache=CACHE)  # type: ignore[arg-type]
    wanted = [asked(LONG, "a"), asked(LONG, "b", sampling=Sampling(temperature=0.7, seed=2)), asked("short", "c")]
    plain = with_engine(without(config), lambda handle: _one_by_one(handle, wanted))

    def broken(*_: Any, **__: Any) -> Any:
        raise Planted("planted")

    async def body(handle: EngineHandle) -> list[Answer]:
        def plant(_: Any, drafts: Any) -> None:
            monkeypatch.setattr(drafts if hasattr(drafts, fault) else drafts._payload, fault, broken)

        await read(handle, asked(LONG, "before"))
        await settled(handle)
        await of_both(handle, plant)
        ours = await asyncio.gather(*(read(handle, item) for item in wanted))
        queue = await settled(handle)
        assert queue["failed"] == 0 and queue["accepted_tokens"] > 0
        assert handle.info().details["speculation"] == "draft; up to 16 tokens"
        return list(ours)

    same(serve(config, body, monkeypatch), plain)
    assert "prompt_cache_failed" in caplog.text and "planted" not in caplog.text


@pytest.mark.slow
def test_a_draft_model_that_has_stopped_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_draft(tmp_path, cache=CACHE)

    async def body(handle: EngineHandle) -> None:
        assert (await after(handle, asked(LONG)))[1]["cached_draft_kv_bytes"] > 0
        await handle.with_session(lambda session: session.speculating.drafting.drafter._stop(Planted("planted")))
        _, queue = await after(handle, asked(LONG))
        assert queue["cached_draft_kv_bytes"] == 0 < queue["cached_kv_bytes"]

    serve(config, body, monkeypatch)
