"""What one request's or one step's failure may cost, and what it may not."""

import asyncio
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import (
    DeadlineExceeded,
    InternalFault,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotLoaded,
    Overloaded,
    RequestAborted,
    WorkerUnavailable,
)
from backend.core.request import Grammar, Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.prefills import Prefills
from backend.engine.handle import EngineHandle
from mlx_cache import PromptCache
from tests.engine.faulty import FaultyModel
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

# Two layers, keys and values, 2 heads of 16 in float32.
# Keys and values; a budget is twice what rows may take, for both layers may exist twice while they are copied.
BYTES_PER_TOKEN = 512
ENDLESS = Sampling(ignore_eos=True)
LONG = "a long prompt of its own " * 20


# What every engine of this module is made with.
ENGINE: dict[str, object] = {}


@pytest.fixture(autouse=True, params=["host", pytest.param("device", marks=pytest.mark.slow)])
def sampler(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each fault hits both decode batches."""
    ENGINE["sampler"] = request.param
    yield request.param
    ENGINE.clear()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


def run(
    path: Path,
    body: Callable[[EngineHandle, FaultyModel], Awaitable[None]],
    *,
    cache: bool = True,
    clock: Callable[[], float] = time.monotonic,
    **engine: object,
) -> None:
    """`body` with an engine whose model can be made to fail."""
    model = FaultyModel()
    config = model_config(
        path,
        engine=EngineConfig(**{"prefill_chunk": 32, **ENGINE, **engine}),  # type: ignore[arg-type]
        cache=CacheConfig() if cache else CacheConfig(max_sequences=0),
    )
    with_engine(config, lambda handle: body(handle, model), load=model.load, clock=clock)


async def decoding(handle: EngineHandle, rows: int) -> None:
    """Wait until so many rows decode."""
    while handle.info().queue.get("decoding", 0) < rows:
        await asyncio.sleep(0.002)


async def golden(handle: EngineHandle) -> tuple[Answer, Answer]:
    greedy = await read(handle, request("a golden prompt", n=8))
    sampled = await read(handle, request("a golden prompt", n=8, sampling=Sampling(temperature=1.0, seed=7)))
    return greedy, sampled


def test_a_failed_step_fails_its_batch_stores_nothing_of_it_and_the_worker_goes_on(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        before = await golden(handle)
        stored = (await settled(handle))["cached_kv_bytes"]
        running = [
            asyncio.create_task(read(handle, request(f"{i} {LONG}", n=3000, sampling=ENDLESS))) for i in range(3)
        ]
        await decoding(handle, 3)
        model.arm(lambda: RuntimeError("planted"), calls=2)
        lost = await asyncio.gather(*running)
        assert all(isinstance(answer.error, InternalFault) for answer in lost)
        assert all("planted" not in str(answer.error) for answer in lost)
        queue = await settled(handle)
        assert queue["live_kv_bytes"] == 0
        # The prompts' own KV was stored before the step failed; nothing of the answers was.
        per_token = (queue["cached_kv_bytes"] - stored) / sum(len(f"{i} {LONG}") - 1 for i in range(3))
        assert per_token == BYTES_PER_TOKEN
        after = await golden(handle)
        assert [a.logprobs for a in after] == [b.logprobs for b in before]

    run(path, body)


def test_a_failed_prefill_fails_its_own_request_and_no_other(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        alone = await read(handle, request("neighbour", n=200, sampling=ENDLESS))
        neighbour = asyncio.create_task(read(handle, request("neighbour", n=200, sampling=ENDLESS)))
        await decoding(handle, 1)
        model.arm(lambda: RuntimeError("planted"), calls=2, decode=False)
        failed = await read(handle, request(LONG, n=5))
        assert isinstance(failed.error, InternalFault)
        assert (await neighbour).logprobs == alone.logprobs
        assert (await read(handle, request(LONG, n=5))).error is None

    run(path, body, cache=False)


def test_followers_of_a_failed_prefill_run_on_their_own(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        model.arm(lambda: RuntimeError("planted"), calls=3, decode=False)
        answers = await asyncio.gather(*(read(handle, request(LONG, n=5, name=f"f{i}")) for i in range(4)))
        errors = [answer.error for answer in answers if answer.error is not None]
        assert len(errors) == 1 and isinstance(errors[0], InternalFault)
        texts = {answer.text for answer in answers if answer.error is None}
        assert len(texts) == 1

    run(path, body)


def test_equal_long_prompts_that_arrive_together_are_prefilled_once(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        answers = await asyncio.gather(*(read(handle, request(LONG, n=3, name=f"s{i}")) for i in range(8)))
        assert len({answer.text for answer in answers}) == 1
        prompt = answers[0].end.usage.prompt_tokens  # type: ignore[union-attr]
        queue = await settled(handle)
        assert queue["prefilled_tokens"] <= 1.2 * prompt

    run(path, body)


def test_a_dead_engine_fails_every_waiter_and_says_so(path: Path) -> None:
    class Fatal(BaseException):
        pass

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        model.arm(Fatal, calls=2)
        answers = await asyncio.gather(*(read(handle, request(f"{i}", n=30)) for i in range(5)))
        assert all(isinstance(answer.error, WorkerUnavailable) for answer in answers)
        assert "Fatal" in await asyncio.wait_for(handle.died(), 30)
        assert not handle.alive and handle.status().state == "error"
        assert isinstance((await read(handle, request("x"))).error, WorkerUnavailable)

    run(path, body, max_rows=2)


def test_what_the_engine_died_of_is_named_in_the_log_without_its_text(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fatal(BaseException):
        pass

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        model.arm(lambda: Fatal("a prompt's text"))
        await read(handle, request("x", n=30))
        await asyncio.wait_for(handle.died(), 30)

    caplog.set_level(logging.DEBUG, "backend.engine.thread")
    run(path, body)
    said = [record for record in caplog.records if record.name == "backend.engine.thread"]
    assert [record.getMessage() for record in said if record.levelno > logging.DEBUG] == ["engine_died error=Fatal"]
    assert any(record.exc_info for record in said if record.levelno == logging.DEBUG)


def test_a_hanging_step_is_found_by_the_watchdog(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        gate = threading.Event()

        def hang() -> RuntimeError:
            gate.wait(60)
            return RuntimeError("late")

        model.arm(hang, calls=1)
        stuck = asyncio.create_task(read(handle, request("x", n=5)))
        assert "one step" in await asyncio.wait_for(handle.died(), 30)
        assert not handle.alive
        gate.set()
        await stuck

    run(path, body, watchdog_s=0.5)


def test_a_deadline_ends_a_request_in_the_queue_and_while_it_runs(path: Path) -> None:
    ahead = [0.0]

    def clock() -> float:
        return time.monotonic() + ahead[0]

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        first = request("x", n=3000, sampling=ENDLESS, deadline=clock() + 2000)
        running = asyncio.create_task(read(handle, first))
        await decoding(handle, 1)
        waiting = asyncio.create_task(read(handle, request("y", n=5, deadline=clock() + 1000)))
        while handle.info().queue["waiting"] < 1:
            await asyncio.sleep(0.001)
        ahead[0] = 1001
        assert isinstance((await waiting).error, DeadlineExceeded)
        assert not running.done()
        ahead[0] = 2001
        ended = await running
        assert isinstance(ended.error, DeadlineExceeded) and ended.deltas
        await settled(handle)

    run(path, body, max_rows=1, clock=clock)


def test_a_cancel_stops_a_prefill_within_a_chunk_and_keeps_what_it_proved(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        stream = await handle.submit(request(LONG * 4, n=5))
        while len(model.calls) < 3:
            await asyncio.sleep(0.001)
        stream.cancel()
        queue = await settled(handle)
        assert queue["prefilled_tokens"] < 4 * len(LONG) - 1
        answer = await read(handle, request(LONG * 4, n=5))
        assert answer.end is not None and answer.end.usage.cached_tokens >= 32

    run(path, body)


def test_a_full_queue_refuses_at_once(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        answers = await asyncio.gather(*(read(handle, request(f"{i}", n=20)) for i in range(9)))
        refused = [answer for answer in answers if isinstance(answer.error, Overloaded)]
        assert len(refused) == 4 and all(answer.error is None for answer in answers if answer not in refused)
        assert (await settled(handle))["in_flight"] == 0

    run(path, body, max_rows=2, queue_size=3)


def test_a_free_aborts_what_runs_and_returns_the_memory(path: Path) -> None:
    import mlx.core as mx

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        streams = [asyncio.create_task(read(handle, request(f"{i}", n=3000, sampling=ENDLESS))) for i in range(3)]
        await decoding(handle, 3)
        await handle.free()
        model.inner = None
        ended = await asyncio.gather(*streams)
        assert all(isinstance(answer.error, RequestAborted) for answer in ended)
        assert isinstance((await read(handle, request("x"))).error, ModelNotLoaded)
        assert handle.status().state == "uninitialized"
        await handle.free()
        assert mx.get_active_memory() <= before + (1 << 16)

    before = mx.get_active_memory()
    run(path, body)


def test_a_load_whose_files_are_wrong_leaves_the_present_model(path: Path, tmp_path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        answer = await read(handle, request("x", n=5))
        broken = Path(copytree(path, tmp_path / "broken"))
        (broken / "tokenizer.json").write_text("{}")
        for config in (model_config(tmp_path / "absent"), model_config(broken), model_config(path, adapter="absent")):
            with pytest.raises(ModelLoadFailed):
                await handle.load(config)
            assert (await read(handle, request("x", n=5))).logprobs == answer.logprobs

    run(path, body)


def test_a_model_that_does_not_fit_its_configuration_leaves_none(path: Path, tmp_path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        broken = Path(copytree(path, tmp_path / "broken"))
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 128}))
        with pytest.raises(ModelLoadFailed):
            await handle.load(model_config(broken))
        assert isinstance((await read(handle, request("x"))).error, ModelNotLoaded)

    run(path, body)


def test_another_model_replaces_the_first_and_finds_none_of_its_kv(path: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", "qwen3", seed=1)

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        first = await read(handle, request(LONG, n=5))
        running = asyncio.create_task(read(handle, request("y", n=3000, sampling=ENDLESS)))
        await decoding(handle, 1)
        await handle.load(model_config(other, cache=CacheConfig()))
        assert isinstance((await running).error, RequestAborted)
        second = await read(handle, request(LONG, n=5))
        assert second.end is not None and second.end.usage.cached_tokens == 0
        assert second.logprobs != first.logprobs

    run(path, body)


def test_loading_the_same_again_disturbs_nobody(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        config = handle.model_config()
        assert config is not None
        running = asyncio.create_task(read(handle, request("y", n=60)))
        await asyncio.gather(handle.load(config), handle.load(config))
        assert (await running).error is None

    run(path, body)


def test_a_prompt_as_long_as_the_context_is_refused_with_both_lengths(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        for n, refused in ((4095, False), (4096, True), (4097, True)):
            answer = await read(handle, request("x" * n, n=5))
            if refused:
                assert isinstance(answer.error, InvalidRequest) and f"{n} tokens" in answer.error.message
            else:
                assert answer.end is not None and answer.end.usage.completion_tokens == 1

    run(path, body, cache=False, prefill_chunk=512)


@pytest.mark.slow
def test_a_budget_too_small_for_all_makes_rows_wait_or_come_back_but_changes_no_answer(path: Path) -> None:
    prompts = [f"{i} budget " * 12 for i in range(6)]

    async def alone(handle: EngineHandle, model: FaultyModel) -> None:
        expected.extend([await read(handle, request(prompt, n=400)) for prompt in prompts])

    async def tight(handle: EngineHandle, model: FaultyModel) -> None:
        answers = await asyncio.gather(*(read(handle, request(prompt, n=400)) for prompt in prompts))
        for ours, theirs in zip(answers, expected, strict=True):
            assert ours.error is None, ours.error
            assert ours.logprobs == theirs.logprobs
        assert (await settled(handle))["preemptions"] > 0
        too_long = await read(handle, request("z" * 3000, n=5))
        assert isinstance(too_long.error, Overloaded) and "3000 tokens" in too_long.error.message

    expected: list[Answer] = []
    run(path, alone, cache=False)
    run(path, tight, kv_bytes=2 * BYTES_PER_TOKEN * 2048)


def test_a_cancelled_stream_ends_once_and_its_row_is_gone(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        stream = await handle.submit(request("x", n=3000, sampling=ENDLESS))
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 3:
                stream.cancel()
        assert seen == 3
        queue = await settled(handle)
        assert queue["cancelled"] == 1 and queue["failed"] == 0 and queue["live_kv_bytes"] == 0

    run(path, body)


def test_a_command_that_fails_ends_its_own_request_and_loses_no_other(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        class Broken(Sampling):
            """Passes every check on the loop and cannot be used on the engine thread."""

            def within(self, vocab_size: int) -> "Sampling":
                return self

        broken = Broken(logit_bias=((3, 1.0),))
        object.__setattr__(broken, "logit_bias", (None,))
        answers = await asyncio.gather(
            read(handle, request("a", n=5, sampling=broken)), *(read(handle, request(f"{i}", n=5)) for i in range(3))
        )
        assert isinstance(answers[0].error, InternalFault)
        assert all(answer.error is None for answer in answers[1:])
        assert (await settled(handle))["in_flight"] == 0

    run(path, body)


def test_a_free_ends_what_waits_for_its_grammar_as_aborted(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        served = handle._loads.current
        assert served is not None
        served.compiler.start()
        while (trial_process := served.compiler.trial_pid) is None:
            await asyncio.sleep(0.002)
        os.kill(trial_process, signal.SIGSTOP)  # nothing is tried out: all that is asked for waits
        grammar = Grammar(kind="regex", text="[a-z]{3}")
        waiting = [asyncio.create_task(read(handle, request(f"{i}", n=5, grammar=grammar))) for i in range(3)]
        while not served.compiler._compiling:
            await asyncio.sleep(0.002)
        await handle.free()
        errors = [(await task).error for task in waiting]
        assert all(isinstance(error, RequestAborted) for error in errors), errors

    run(path, body)


def test_a_free_stops_a_load_that_runs(path: Path) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        begun = threading.Event()

        def slow_load(*args: object, cancelled: Callable[[], bool], **kwargs: object) -> None:
            begun.set()
            while not cancelled():
                time.sleep(0.01)
            raise ModelLoadFailed("cancelled")

        other = EngineHandle(blas="reference", load=slow_load)  # type: ignore[arg-type]
        other.start()
        load = asyncio.create_task(other.load(model_config(path)))
        await asyncio.to_thread(begun.wait, 20)
        await asyncio.wait_for(other.free(), 30)
        with pytest.raises(ModelLoadFailed):
            await load
        await other.close()

    run(path, body)


def test_a_serial_model_counts_one_row_in_its_bound(tmp_path: Path) -> None:
    serial = write_model(tmp_path / "llama4", "llama4")

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        answers = await asyncio.gather(*(read(handle, request(f"{i}", n=20)) for i in range(9)))
        assert sum(isinstance(answer.error, Overloaded) for answer in answers) == 9 - (1 + 3)

    run(serial, body, queue_size=3)


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Have the next call of a method raise."""
    sound = getattr(owner, name)

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, sound)
        raise RuntimeError("planted")

    monkeypatch.setattr(owner, name, faulty)


def test_a_batch_that_cannot_let_a_cancelled_row_go_costs_its_rows_and_not_the_engine(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        before = await golden(handle)
        staying = [asyncio.create_task(read(handle, request(f"{i} stays", n=3000, sampling=ENDLESS))) for i in range(2)]
        leaving = await handle.submit(request("leaves", n=3000, sampling=ENDLESS))
        await decoding(handle, 3)
        fail_once(monkeypatch, DecodeBatch, "leave")
        leaving.cancel()
        lost = await asyncio.gather(*staying)
        assert all(isinstance(answer.error, InternalFault) for answer in lost)
        queue = await settled(handle)
        assert (queue["cancelled"], queue["failed"], queue["live_kv_bytes"]) == (1, 2, 0)
        assert [a.logprobs for a in await golden(handle)] == [b.logprobs for b in before]
        assert handle.alive

    run(path, body, cache=False)


@pytest.mark.slow
def test_a_batch_that_cannot_let_a_row_go_back_to_the_queue_costs_the_others_and_that_row_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        wanted = [request(f"{i} budget " * 12, n=700, sampling=ENDLESS) for i in range(3)]
        fail_once(monkeypatch, DecodeBatch, "leave")
        answers = await asyncio.gather(*(read(handle, item) for item in wanted))
        failed = [answer.error for answer in answers if answer.error is not None]
        assert len(failed) == 2 and all(isinstance(error, InternalFault) for error in failed)
        assert (await settled(handle))["preemptions"] == 1
        assert handle.alive

    run(path, body, kv_bytes=2 * BYTES_PER_TOKEN * 2048)


def test_a_prompt_cache_that_cannot_evict_costs_hits_and_no_request(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        for name in ("trim_to", "stats"):
            fail_once(monkeypatch, PromptCache, name)
        for index in range(6):
            assert (await read(handle, request(f"{index} filler " * 30, n=3))).error is None
        queue = await settled(handle)
        assert queue["cached_kv_bytes"] + queue["live_kv_bytes"] <= 2 * BYTES_PER_TOKEN * 1024
        assert handle.alive

    run(path, body, kv_bytes=2 * BYTES_PER_TOKEN * 1024)


def test_a_model_that_cannot_make_its_caches_costs_the_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        fail_once(monkeypatch, Prefills, "_restore")
        assert isinstance((await read(handle, request("x", n=3))).error, InternalFault)
        assert (await read(handle, request("x", n=3))).error is None
        assert handle.alive

    run(path, body)


@pytest.mark.parametrize(("owner", "method"), [(Prefills, "admit"), (DecodeBatch, "join")])
def test_a_death_of_the_engine_between_two_places_of_a_row_ends_its_request(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    async def body(handle: EngineHandle, model: FaultyModel) -> None:
        monkeypatch.setattr(owner, method, die)
        answer = await asyncio.wait_for(read(handle, request("x")), 30)
        assert isinstance(answer.error, WorkerUnavailable)

    run(path, body)
