"""An idle model: its weights go, its prompt cache stays, and the next request has them loaded again."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig, ModelConfig, SamplerBackend
from backend.core.errors import (
    DeadlineExceeded,
    ModelLoadFailed,
    ModelNotLoaded,
    Overloaded,
    RequestAborted,
    WorkerError,
    WorkerUnavailable,
)
from backend.engine import attempt, loads, sleep
from backend.engine.batching import assembly
from backend.engine.handle import EngineHandle
from backend.engine.loading import LoadedModel, load_model
from backend.engine.loading.probe import ProbeFailed
from backend.engine.preparing import opening
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

IDLE_S = 60.0
PROMPT = "The rivers of the city are navigable all year. "


class Clock:
    """Monotonic seconds that a test may let pass at once."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Loading:
    """`load_model` that counts, and waits or fails when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.begun, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    def __call__(self, *args: Any, cancelled: Callable[[], bool], **options: Any) -> LoadedModel:
        self.count += 1
        self.begun.set()
        while not self.gate.wait(0.01):
            if cancelled():
                raise ModelLoadFailed("loading was cancelled")
        if self.failures:
            raise self.failures.pop()
        return load_model(*args, cancelled=cancelled, **options)

    def hold(self) -> None:
        """Let the next load wait for the gate."""
        self.begun.clear()
        self.gate.clear()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


@pytest.fixture
def own(path: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(copytree(path, tmp_path / "own"))


@pytest.fixture(autouse=True)
def _short_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleep, "LONGEST_NAP_SECONDS", 0.02)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loading() -> Any:
    loading = Loading()
    yield loading
    loading.gate.set()


def config(path: Path, sampler: SamplerBackend = "auto", idle_s: float | None = IDLE_S, **engine: Any) -> ModelConfig:
    """A load that lets the model sleep, with a prompt cache."""
    return model_config(path, engine=EngineConfig(model_idle_s=idle_s, sampler=sampler, **engine), cache=CacheConfig())


async def is_asleep(handle: EngineHandle) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if "idle" in handle.info().details and not handle.status().breakdown["weights"]:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not sleep")


async def fall_asleep(handle: EngineHandle, clock: Clock) -> None:
    clock.ahead += IDLE_S + 1
    await is_asleep(handle)


async def naps() -> None:
    """Long enough for some looks at the clock."""
    await asyncio.sleep(10 * sleep.LEAST_NAP_SECONDS)


async def begun(loading: Loading) -> None:
    assert await asyncio.to_thread(loading.begun.wait, 20)


def hit(answer: Answer) -> int:
    assert answer.end is not None, answer.error
    return answer.end.usage.cached_tokens


def active(handle: EngineHandle) -> int:
    return handle.status().breakdown["mlx_active"]


@pytest.mark.parametrize("sampler", ["host", "device"])
@pytest.mark.parametrize("family", ["qwen3", pytest.param("qwen3_next", marks=pytest.mark.slow)])
def test_an_idle_model_drops_its_weights_and_then_answers_as_if_it_had_not(
    tmp_path: Path, clock: Clock, loading: Loading, sampler: SamplerBackend, family: str
) -> None:
    asked = request(PROMPT * 3, n=12)

    async def body(handle: EngineHandle) -> None:
        await read(handle, asked)
        before = await read(handle, asked)
        await settled(handle)
        weights, bytes_before = handle.status().breakdown["weights"], active(handle)
        cached = handle.status().breakdown["cached_kv"]
        await fall_asleep(handle, clock)
        assert handle.status().state == "ready"
        assert active(handle) <= bytes_before - weights
        assert handle.status().breakdown["cached_kv"] == cached > 0
        assert handle.info().details["idle"].startswith("asleep since 20")
        assert handle.metrics().tokens_generated == 24
        after = await read(handle, asked)
        assert after.logprobs == before.logprobs
        assert hit(after) == hit(before) > 0
        assert loading.count == 2
        assert handle.status().breakdown["weights"] == weights
        assert "idle" not in handle.info().details
        assert (await settled(handle))["requests"] == 3
        # And again.
        await fall_asleep(handle, clock)
        assert (await read(handle, asked)).logprobs == before.logprobs

    with_engine(config(write_model(tmp_path / family, family), sampler), body, load=loading, clock=clock)


def test_a_model_sleeps_only_where_it_was_asked_to(path: Path, clock: Clock) -> None:
    async def body(handle: EngineHandle) -> None:
        clock.ahead += 1e6
        await naps()
        assert "idle" not in handle.info().details

    with_engine(config(path, idle_s=None), body, clock=clock)


@pytest.mark.slow
def test_a_model_does_not_sleep_while_a_request_runs_or_is_prepared(path: Path, clock: Clock) -> None:
    async def body(handle: EngineHandle) -> None:
        stream = await handle.submit(request(PROMPT, n=100_000))
        clock.ahead += 3 * IDLE_S
        await naps()
        assert "idle" not in handle.info().details
        stream.cancel()
        await settled(handle)
        model = handle._loads.current
        assert model is not None
        gate = threading.Event()
        blocked = [asyncio.ensure_future(model.prep.run(gate.wait, 30)) for _ in range(2)]
        preparing = asyncio.create_task(read(handle, request(PROMPT)))
        await asyncio.sleep(0)
        clock.ahead += 3 * IDLE_S
        await naps()
        assert "idle" not in handle.info().details
        gate.set()
        await asyncio.gather(*blocked)
        assert (await preparing).error is None
        # The time begins with its end.
        clock.ahead += IDLE_S - 5
        await naps()
        assert "idle" not in handle.info().details
        await fall_asleep(handle, clock)

    with_engine(config(path), body, clock=clock)


def test_what_needs_no_weights_wakes_nothing(path: Path, clock: Clock, loading: Loading) -> None:
    async def body(handle: EngineHandle) -> None:
        await fall_asleep(handle, clock)
        ids = await handle.tokenize(PROMPT)
        assert await handle.detokenize(ids) == PROMPT
        await handle.model_facts()
        refused = await read(handle, request("x" * 100_000))
        assert isinstance(refused.error, WorkerError)
        assert "idle" in handle.info().details
        assert loading.count == 1

    with_engine(config(path), body, load=loading, clock=clock)


def test_requests_that_come_together_wait_for_one_load(path: Path, clock: Clock, loading: Loading) -> None:
    """Deadlines, cancels and the queue's limit hold meanwhile."""

    async def body(handle: EngineHandle) -> None:
        expected = [await read(handle, request(f"{PROMPT} {place}")) for place in range(3)]
        await fall_asleep(handle, clock)
        loading.hold()
        asked = [asyncio.create_task(read(handle, request(f"{PROMPT} {place}"))) for place in range(3)]
        await begun(loading)
        late = await read(handle, replace(request(PROMPT), deadline=clock() + 0.1))
        assert isinstance(late.error, DeadlineExceeded)
        leaving = asyncio.create_task(handle.submit(request(PROMPT)))
        await naps()
        assert isinstance((await read(handle, request(PROMPT))).error, Overloaded)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert handle.info().queue["in_flight"] == 3
        assert handle.status().state == "busy"
        loading.gate.set()
        assert [answer.logprobs for answer in await asyncio.gather(*asked)] == [a.logprobs for a in expected]
        assert loading.count == 2

    with_engine(config(path, max_rows=2, queue_size=2), body, load=loading, clock=clock)


def test_a_model_that_cannot_be_woken_up_fails_those_who_wait_and_the_next_request_tries_again(
    path: Path, clock: Clock, loading: Loading
) -> None:
    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        loading.failures = [MemoryError("no room"), ModelLoadFailed("no room")]
        for _ in range(2):
            for failed in await asyncio.gather(*(read(handle, request(PROMPT)) for _ in range(3))):
                assert isinstance(failed.error, ModelLoadFailed)
                assert failed.error.message.startswith("mlx: model not loaded: it was idle, and could not be loaded")
                assert "no room" in failed.error.message
            assert handle.status().state == "ready"
        after = await read(handle, request(PROMPT))
        assert after.logprobs == before.logprobs
        assert hit(after) > 0

    with_engine(config(path), body, load=loading, clock=clock)


def test_no_memory_stays_of_a_wake_up_that_failed_after_the_weights(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> Any:
        raise ModelLoadFailed("kv_bytes: too little is left")

    async def body(handle: EngineHandle) -> None:
        await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        asleep = active(handle)
        with monkeypatch.context() as patched:
            patched.setattr(assembly.DeviceShare, "of", no_room)
            failed = await read(handle, request(PROMPT))
        assert "too little is left" in str(failed.error)
        await naps()
        assert active(handle) == asleep
        assert handle.status().breakdown["buffer_pool"] == 0
        assert hit(await read(handle, request(PROMPT))) > 0

    with_engine(config(path), body, clock=clock)


def test_files_that_are_away_for_a_while_are_waited_for(own: Path, clock: Clock) -> None:
    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        (own / "model.safetensors").rename(own / "elsewhere")
        assert "has no model*.safetensors" in str((await read(handle, request(PROMPT))).error)
        (own / "elsewhere").rename(own / "model.safetensors")
        after = await read(handle, request(PROMPT))
        assert after.logprobs == before.logprobs
        assert hit(after) > 0

    with_engine(config(own), body, clock=clock)


@pytest.mark.slow
def test_another_checkpoint_in_the_same_place_is_no_model_that_was_loaded(
    own: Path, tmp_path: Path, clock: Clock, loading: Loading
) -> None:
    """Its requests make a host load it; nothing that was cached of the other is ever found."""
    other = write_model(tmp_path / "other", "qwen3", seed=5)

    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        (other / "model.safetensors").rename(own / "model.safetensors")
        failed = await asyncio.gather(*(read(handle, request(PROMPT)) for _ in range(2)))
        # One that is being prepared when the model is dropped is told that.
        kinds = {type(answer.error) for answer in failed}
        assert ModelNotLoaded in kinds <= {ModelNotLoaded, RequestAborted}
        assert loading.count == 1
        assert handle.status().state == "uninitialized"
        await handle.load(config(own))
        after = await read(handle, request(PROMPT))
        assert hit(after) == 0
        assert after.logprobs != before.logprobs

    with_engine(config(own), body, load=loading, clock=clock)


def test_a_checkpoint_that_changes_while_it_is_read_is_not_served(own: Path, clock: Clock, loading: Loading) -> None:
    async def body(handle: EngineHandle) -> None:
        await fall_asleep(handle, clock)
        loading.hold()
        asked = asyncio.create_task(read(handle, request(PROMPT)))
        await begun(loading)
        (own / "config.json").write_text(json.dumps(json.loads((own / "config.json").read_text()) | {"rope_theta": 7}))
        loading.gate.set()
        assert "changed while they were read" in str((await asked).error)
        assert isinstance((await read(handle, request(PROMPT))).error, ModelNotLoaded)

    with_engine(config(own), body, load=loading, clock=clock)


@pytest.mark.slow
@pytest.mark.parametrize("waking", [False, True])
def test_a_free_drops_a_model_that_sleeps_or_wakes(path: Path, clock: Clock, loading: Loading, waking: bool) -> None:
    async def body(handle: EngineHandle) -> None:
        await handle.free()
        empty = active(handle)
        await handle.load(config(path))
        await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        loading.hold()
        asked = [asyncio.create_task(read(handle, request(PROMPT))) for _ in range(3 if waking else 0)]
        if waking:
            await begun(loading)
        await asyncio.wait_for(handle.free(), 30)
        assert [type(answer.error) for answer in await asyncio.gather(*asked)] == [RequestAborted] * len(asked)
        assert handle.loaded_identity() is None
        assert handle.status().state == "uninitialized"
        assert "idle" not in handle.info().details
        await naps()
        assert active(handle) == empty
        loading.gate.set()
        await handle.load(config(path))
        assert hit(await read(handle, request(PROMPT))) == 0

    with_engine(config(path), body, load=loading, clock=clock)


def test_a_free_at_the_moment_of_falling_asleep_leaves_no_load_behind(
    path: Path, clock: Clock, loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that waits until the weights are gone does not have them loaded for nobody."""
    from backend.engine.batching.session import Session

    closing, gate, original = threading.Event(), threading.Event(), Session.close

    def slow(self: Session, **options: Any) -> None:
        closing.set()
        gate.wait(60)
        original(self, **options)

    async def body(handle: EngineHandle) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Session, "close", slow)
            clock.ahead += IDLE_S + 1
            assert await asyncio.to_thread(closing.wait, 20)
            asked = asyncio.create_task(read(handle, request(PROMPT)))
            await naps()
            freeing = asyncio.create_task(handle.free())
            await naps()
            gate.set()
        await asyncio.wait_for(freeing, 30)
        assert isinstance((await asked).error, RequestAborted)
        assert loading.count == 1

    with_engine(config(path), body, load=loading, clock=clock)


def test_a_request_that_comes_while_the_weights_go_is_answered(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.engine.batching.session import Session

    closing, gate, original = threading.Event(), threading.Event(), Session.close

    def slow(self: Session, **options: Any) -> None:
        closing.set()
        gate.wait(60)
        original(self, **options)

    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        with monkeypatch.context() as patched:
            patched.setattr(Session, "close", slow)
            clock.ahead += IDLE_S + 1
            assert await asyncio.to_thread(closing.wait, 20)
            asked = asyncio.create_task(read(handle, request(PROMPT)))
            await naps()
            gate.set()
            assert (await asked).logprobs == before.logprobs

    with_engine(config(path), body, clock=clock)


@pytest.mark.slow
def test_the_same_load_wakes_the_model(path: Path, clock: Clock, loading: Loading) -> None:
    """And says whether it is there, which the host wants to know; a request that comes meanwhile waits with it."""

    async def body(handle: EngineHandle) -> None:
        await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        asked, _ = await asyncio.gather(read(handle, request(PROMPT)), handle.load(config(path)))
        assert hit(asked) > 0
        assert loading.count == 2
        await fall_asleep(handle, clock)
        await handle.load(config(path))
        clock.ahead += IDLE_S - 5
        await naps()
        assert "idle" not in handle.info().details
        assert loading.count == 3

    with_engine(config(path), body, load=loading, clock=clock)


@pytest.mark.slow
def test_the_same_load_begins_from_the_start_where_the_model_cannot_be_woken_up(
    path: Path, clock: Clock, loading: Loading
) -> None:
    async def body(handle: EngineHandle) -> None:
        await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        loading.failures = [ModelLoadFailed("once")]
        await handle.load(config(path))
        assert hit(await read(handle, request(PROMPT))) == 0
        assert loading.count == 3
        await fall_asleep(handle, clock)
        loading.hold()
        same = asyncio.create_task(handle.load(config(path)))
        await begun(loading)
        await asyncio.wait_for(handle.free(), 30)
        with pytest.raises(ModelLoadFailed, match="cancelled"):
            await same

    with_engine(config(path), body, load=loading, clock=clock)


@pytest.mark.slow
def test_another_load_replaces_a_model_that_sleeps_and_finds_nothing_of_it(
    path: Path, own: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        with pytest.raises(ModelLoadFailed):
            await handle.load(config(own / "nowhere"))
        # While the other's files are sought, the one that sleeps is woken up for its requests.
        seeking, gate = threading.Event(), threading.Event()

        def slow(*args: Any, **options: Any) -> Any:
            seeking.set()
            gate.wait(60)
            return original(*args, **options)

        original = loads.open_files
        monkeypatch.setattr(loads, "open_files", slow)
        other = asyncio.create_task(handle.load(config(own)))
        assert await asyncio.to_thread(seeking.wait, 20)
        assert (await read(handle, request(PROMPT))).logprobs == before.logprobs
        await fall_asleep(handle, clock)
        gate.set()
        await other
        assert hit(await read(handle, request(PROMPT))) == 0

    with_engine(config(path), body, clock=clock)


@pytest.mark.parametrize("waking", [False, True])
def test_a_worker_stops_while_its_model_sleeps_or_wakes(
    path: Path, clock: Clock, loading: Loading, waking: bool
) -> None:
    async def body(handle: EngineHandle) -> None:
        await fall_asleep(handle, clock)
        loading.hold()
        asked = [asyncio.create_task(read(handle, request(PROMPT))) for _ in range(2 if waking else 0)]
        if waking:
            await begun(loading)
        await asyncio.wait_for(handle.close(), 30)
        assert [type(answer.error) for answer in await asyncio.gather(*asked)] == [WorkerUnavailable] * len(asked)
        assert isinstance((await read(handle, request(PROMPT))).error, WorkerUnavailable)

    with_engine(config(path), body, load=loading, clock=clock)


@pytest.mark.slow
def test_a_wake_up_that_hangs_on_the_engine_thread_ends_the_engine(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, loaded = threading.Event(), threading.Event()

    def load(*args: Any, **options: Any) -> LoadedModel:
        if loaded.is_set():
            gate.wait(60)
        loaded.set()
        return load_model(*args, **options)

    async def body(handle: EngineHandle) -> None:
        await is_asleep(handle)
        monkeypatch.setattr(attempt, "LEAST_PATIENCE_SECONDS", 0)
        asked = asyncio.create_task(read(handle, request(PROMPT)))
        assert "a load for 0.4 s" in await asyncio.wait_for(handle.died(), 30)
        await handle.close()
        assert isinstance((await asked).error, WorkerUnavailable)
        gate.set()

    with_engine(config(path, idle_s=0.05, watchdog_s=0.4), body, load=load, clock=clock)


@pytest.mark.slow
def test_files_that_hang_at_a_wake_up_are_given_up_by_the_watchdog(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    async def body(handle: EngineHandle) -> None:
        await read(handle, request(PROMPT))
        await is_asleep(handle)
        with monkeypatch.context() as patched:
            patched.setattr(attempt, "LEAST_PATIENCE_SECONDS", 0)
            patched.setattr(loads, "check_weights", lambda _: gate.wait(60))
            assert "nothing has happened for 1 s" in str((await read(handle, request(PROMPT))).error)
        gate.set()
        assert hit(await read(handle, request(PROMPT))) > 0

    with_engine(config(path, idle_s=0.05, watchdog_s=1), body, clock=clock)


@pytest.mark.slow
def test_what_the_first_load_has_found_out_is_not_found_out_again(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No files are sought, no tokenizer is made, nothing is tried out and nothing warmed up."""

    def again(*_: object, **__: object) -> Any:
        raise AssertionError("again")

    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        await fall_asleep(handle, clock)
        for owner, name in (
            (loads, "open_files"),
            (opening, "build_preparer"),
            (assembly, "warm_up_session"),
            (assembly, "warm_up_sampler"),
        ):
            monkeypatch.setattr(owner, name, again)
        monkeypatch.setattr("backend.engine.loading.model.probe", again)
        assert (await read(handle, request(PROMPT))).logprobs == before.logprobs

    with_engine(config(path, "device", warm_up="on", max_rows=2), body, clock=clock)


@pytest.mark.slow
def test_a_model_that_was_found_to_run_in_float32_only_is_woken_up_in_it(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.engine.loading import model as loading_model

    sound, tried = loading_model.probe, [True]

    def fails_once(*args: Any, **options: Any) -> Any:
        if tried.pop():
            tried.append(False)
            raise ProbeFailed("no kernel")
        return sound(*args, **options)

    monkeypatch.setattr(loading_model, "probe", fails_once)

    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request(PROMPT))
        weights = handle.status().breakdown["weights"]
        await fall_asleep(handle, clock)
        after = await read(handle, request(PROMPT))
        assert after.logprobs == before.logprobs
        assert hit(after) > 0
        assert handle.status().breakdown["weights"] == weights

    with_engine(replace(config(path), dtype="float16"), body, clock=clock)


@pytest.mark.slow
def test_a_model_that_runs_code_of_its_own_stays_awake(own: Path, clock: Clock) -> None:
    (own / "config.json").write_text(json.dumps(json.loads((own / "config.json").read_text()) | {"model_file": "o.py"}))
    (own / "o.py").write_text("from mlx_lm.models.qwen3 import *\n")

    async def body(handle: EngineHandle) -> None:
        clock.ahead += 3 * IDLE_S
        await naps()
        assert "idle" not in handle.info().details
        assert (await read(handle, request(PROMPT))).error is None

    with_engine(replace(config(own), trust_remote_code=True), body, clock=clock)


@pytest.mark.slow
def test_measurements_have_the_weights(path: Path, clock: Clock) -> None:
    async def body(handle: EngineHandle) -> None:
        await fall_asleep(handle, clock)
        assert await handle.with_session(lambda session: session.loaded.model is not None)

    with_engine(config(path), body, clock=clock)


def test_a_model_that_has_work_yet_falls_asleep_a_little_later() -> None:
    async def body() -> None:
        refusals = [True, True]

        async def drop() -> bool:
            return not (refusals and refusals.pop())

        async def load() -> None:
            raise AssertionError("it was awake")

        sleeping = sleep.Sleep(asyncio.Lock(), drop, load, idle_since=lambda: 0.0)
        sleeping.begin(0.01)
        while refusals:
            assert sleeping.since is None
            await sleeping.awake()
            await asyncio.sleep(0.001)
        while sleeping.since is None:
            await asyncio.sleep(0.001)
        sleeping.end()
        assert sleeping.since is None

    asyncio.run(asyncio.wait_for(body(), 30))
