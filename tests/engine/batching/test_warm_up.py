"""A load that warms up has run every kind of step, leaves nothing of it, and fails where a step does."""

import asyncio
import gc
import logging
from pathlib import Path

import mlx.core as mx
import pytest

from backend.config import CacheConfig, EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.batching import warm_up
from backend.engine.batching.warm_up import rounds
from backend.engine.handle import EngineHandle
from tests.engine.faulty import FaultyModel
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model

ROWS, CHUNK = 5, 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


def config(path: Path, sampler: str = "host", warm: str = "on", **engine: object) -> ModelConfig:
    options = EngineConfig(prefill_chunk=CHUNK, max_rows=ROWS, sampler=sampler, warm_up=warm, **engine)  # type: ignore[arg-type]
    return model_config(path, engine=options, cache=CacheConfig())


def test_every_number_of_rows_and_every_kind_of_chunk_is_planned_within_the_context() -> None:
    planned = rounds(chunk=512, max_rows=8, context=4096)
    assert max(len(step.requests) for step in planned) == 8
    lengths = [item.length - 1 for step in planned for item in step.requests]
    assert {1, 512, 518} <= set(lengths)
    for chunk, context in ((512, 300), (512, 20), (4, 4096), (1, 2)):
        for step in rounds(chunk=chunk, max_rows=8, context=context):
            assert all(item.length + item.answer <= context for item in step.requests)


@pytest.mark.parametrize("sampler", [pytest.param("host", marks=pytest.mark.slow), "device"])
def test_a_warm_model_has_run_all_shapes_and_nothing_of_it_is_left(
    path: Path, sampler: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = FaultyModel()

    async def body(handle: EngineHandle) -> tuple[list[object], int]:
        shapes = list(model.calls)
        assert {rows for rows, tokens in shapes if tokens == 1} >= set(range(1, ROWS + 1))
        assert {tokens for rows, tokens in shapes if rows == 1} >= {1, 6, 31, CHUNK}
        queue = handle.info().queue
        counted = {name: value for name, value in queue.items() if name != "kv_budget_bytes"}
        assert set(counted.values()) == {0}
        assert handle.info().cache["inserts"] == handle.info().cache["nbytes"] == 0
        active = mx.get_active_memory()
        answers = await asyncio.gather(*(read(handle, request(f"{index} prompt", n=8)) for index in range(3)))
        return [answer.logprobs for answer in answers], active

    async def cold(handle: EngineHandle) -> tuple[list[object], int]:
        active = mx.get_active_memory()
        answers = [await read(handle, request(f"{index} prompt", n=8)) for index in range(3)]
        return [answer.logprobs for answer in answers], active

    with caplog.at_level(logging.INFO):
        warm_answers, warm_bytes = with_engine(config(path, sampler), body, load=model.load)
    model.inner = None
    gc.collect()
    assert sum("model_warm_up_done" in record.getMessage() for record in caplog.records) == 1
    cold_answers, cold_bytes = with_engine(config(path, sampler, warm="off"), cold)
    assert warm_answers == cold_answers
    assert warm_bytes <= cold_bytes + 100_000


@pytest.mark.parametrize("decode", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_step_that_fails_in_the_warm_up_is_a_load_that_failed_and_the_next_one_loads(
    path: Path, decode: bool
) -> None:
    model = FaultyModel()

    def load(*args: object, **options: object) -> object:
        loaded = model.load(*args, **options)
        if faults:
            model.arm(faults.pop, calls=4, decode=decode)
        return loaded

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="warm-up, .*internal error in"):
            await handle.load(config(path))
        await handle.load(config(path))
        assert (await read(handle, request("a prompt", n=4))).error is None

    faults = [RuntimeError("planted")]
    with_engine(None, body, load=load)  # type: ignore[arg-type]


def test_a_load_that_is_not_wanted_any_more_stops_warming_up(path: Path) -> None:
    model = FaultyModel()

    async def body(handle: EngineHandle) -> None:
        loading = asyncio.create_task(handle.load(config(path)))
        while not any(tokens == 1 for _, tokens in model.calls):
            await asyncio.sleep(0)
        await handle.free()
        with pytest.raises(ModelLoadFailed, match="cancelled"):
            await loading
        assert handle.info().queue == {}

    with_engine(None, body, load=model.load)


def test_a_warm_up_that_takes_long_is_cut_short_and_the_model_serves(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm_up, "MOST_SECONDS", 0.0)

    async def body(handle: EngineHandle) -> None:
        assert (await read(handle, request("a prompt", n=4))).error is None

    with caplog.at_level(logging.WARNING):
        with_engine(config(path), body)
    assert any("warm_up_cut_short" in record.getMessage() for record in caplog.records)


def test_prompts_that_the_budget_has_no_room_for_are_left_out(path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        assert (await read(handle, request("a prompt", n=4))).error is None

    with_engine(config(path, kv_bytes=2 * 512 * 600), body)


def test_a_cpu_has_nothing_to_compile(path: Path) -> None:
    model = FaultyModel()

    async def body(handle: EngineHandle) -> None:
        assert model.calls == []

    with_engine(config(path, warm="auto"), body, load=model.load)
