"""Prompts beside streams: a step between any two slices, tokens before slices, and the same answers."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import DeadlineExceeded
from backend.core.request import Sampling
from backend.engine import waits
from backend.engine.batching import assembly
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from tests.engine.faulty import FaultyModel
from tests.engine.harness import NO_CACHE, Answer, model_config, read, request, with_engine
from tests.engine.test_exactness import CHUNK, assert_same, schedule, together
from tests.models import FAMILIES, QUICK_FAMILIES, write_model
from tests.rounding import tolerance
from tests.tiers import families_by_batch

LAYERS = 6
LONG = "a long prompt of its own " * 12
ENDLESS = Sampling(ignore_eos=True)


@pytest.fixture(autouse=True)
def _one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(assembly.SLICE_SECONDS, "cpu", 0.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3", layers=LAYERS)


class Watched(FaultyModel):
    """Notes what is computed: (rows, tokens) where the model is called, "slice" where layers are put on the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.log: list[Any] = []
        put = Chunk.put

        def noted(chunk: Chunk, layers: int) -> None:
            self.log.append("slice")
            put(chunk, layers)

        monkeypatch.setattr(Chunk, "put", noted)

    def __call__(self, tokens: Any, **kwargs: Any) -> Any:
        self.log.append(tuple(tokens.shape))
        return super().__call__(tokens, **kwargs)


BATCHES = (pytest.param("host", marks=pytest.mark.slow), "device")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def run(
    path: Path,
    model: FaultyModel,
    body: Callable[[EngineHandle], Awaitable[None]],
    *,
    sampler: str = "host",
    cache: CacheConfig = NO_CACHE,
    **engine: Any,
) -> None:
    options = EngineConfig(**{"prefill_chunk": 32, "sampler": sampler, **engine})
    with_engine(model_config(path, engine=options, cache=cache), body, load=model.load)


async def decoding(handle: EngineHandle, rows: int = 1) -> None:
    while handle.info().queue.get("decoding", 0) < rows:
        await asyncio.sleep(0.001)


async def prefilling(handle: EngineHandle, model: Watched, slices: int) -> None:
    """Until so many slices more have begun."""
    wanted = model.log.count("slice") + slices
    while model.log.count("slice") < wanted:
        await asyncio.sleep(0.0005)


@pytest.mark.parametrize("sampler", BATCHES)
def test_running_streams_take_a_step_between_any_two_slices(path: Path, sampler: str, model: Watched) -> None:
    async def body(handle: EngineHandle) -> None:
        stream = await handle.submit(request("x", n=3000, sampling=ENDLESS))
        await decoding(handle)
        model.log.clear()
        await read(handle, request(LONG, n=1))
        slices = [place for place, what in enumerate(model.log) if what == "slice"]
        assert len(slices) == LAYERS * -(-(len(LONG) - 1) // 32)
        for place, after in pairwise(slices):
            assert (1, 1) in model.log[place:after]
        stream.cancel()

    run(path, model, body, sampler=sampler)


def test_a_short_prompt_runs_between_the_slices_of_a_long_one(path: Path, model: Watched) -> None:
    async def body(handle: EngineHandle) -> None:
        long = asyncio.create_task(read(handle, request(LONG * 4, n=1)))
        await prefilling(handle, model, 3)
        begun = len(model.log)
        await read(handle, request("shorter", n=1))
        between = model.log[begun:]
        assert not long.done()
        assert (1, 6) in between
        # All of its layers, what ran when it came, and a slice at each end.
        assert between[: between.index((1, 6))].count("slice") <= 2
        await long

    run(path, model, body)


def test_what_has_been_drawn_goes_out_before_anybody_waits_for_a_prompt(
    path: Path, model: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    waited = 0

    def evaluate(*arrays: Any) -> None:
        nonlocal waited
        if sys._getframe(2).f_code is Chunk.wait.__code__ and sessions and sessions[0].groups:
            waited += 1
            assert all(batch._drawn is None for batch in sessions[0].groups.batches)  # type: ignore[attr-defined]
            assert not sessions[0].decoding.outbox
        import mlx.core as mx

        mx.eval(*arrays)

    monkeypatch.setattr(waits, "evaluate", evaluate)

    async def body(handle: EngineHandle) -> None:
        session = handle._thread.session
        assert session is not None
        sessions.append(session)
        stream = await handle.submit(request("x", n=3000, sampling=ENDLESS))
        await decoding(handle)
        assert (await read(handle, request(LONG, n=1))).error is None
        assert waited >= LAYERS
        stream.cancel()

    run(path, model, body, sampler="device")


@pytest.mark.parametrize(
    ("family", "sampler"),
    families_by_batch([("qwen3", "device")]),
)
def test_answers_do_not_depend_on_slices(
    family: str, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / family, family, layers=4)
    options = EngineConfig(prefill_chunk=CHUNK, max_rows=6, sampler=sampler)  # type: ignore[arg-type]
    config = model_config(path, engine=options, cache=CacheConfig(max_bytes=64 << 10))
    wanted = schedule(4, 14)

    async def crowd(handle: EngineHandle) -> list[Answer]:
        return await together(handle, wanted, 6)

    async def alone(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, item) for item in wanted]

    sliced = with_engine(config, crowd)
    monkeypatch.setitem(assembly.SLICE_SECONDS, "cpu", 1e6)
    whole = with_engine(model_config(path, engine=options), alone)
    within = {family: 1e-4 for family in FAMILIES if family not in QUICK_FAMILIES}
    for ours, theirs in zip(sliced, whole, strict=True):
        assert_same(ours, theirs, tolerance(family, within))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", "device"])
def test_who_leaves_in_the_middle_of_a_chunk_leaves_what_was_proven_before_it(
    path: Path, sampler: str, model: Watched
) -> None:
    async def body(handle: EngineHandle) -> None:
        right = await read(handle, request(LONG, n=5, cache_read_only=True))
        for leave_after in range(1, LAYERS + 1):
            session = handle._thread.session
            assert session is not None
            session.prefix.forget()
            stream = await handle.submit(request(LONG, n=5))
            await prefilling(handle, model, 2 * LAYERS + leave_after)
            stream.cancel()
            while handle.info().queue["in_flight"] or handle.info().queue["prefilling"]:
                await asyncio.sleep(0.001)
            answer = await read(handle, request(LONG, n=5, cache_read_only=True))
            assert answer.end is not None and answer.end.usage.cached_tokens >= 64
            assert answer.logprobs == right.logprobs

    run(path, model, body, sampler=sampler, cache=CacheConfig())


def test_a_deadline_passes_in_the_middle_of_a_chunk(path: Path, model: Watched) -> None:
    async def body(handle: EngineHandle) -> None:
        answer = await read(handle, request(LONG * 10, n=5, deadline=time.monotonic() + 0.05))
        assert isinstance(answer.error, DeadlineExceeded)
        assert (await read(handle, request(LONG, n=5))).error is None

    run(path, model, body)


def test_followers_of_a_prompt_that_leaves_in_the_middle_of_a_chunk_take_what_it_had(
    path: Path, model: Watched
) -> None:
    async def body(handle: EngineHandle) -> None:
        right = await read(handle, request(LONG, n=5, cache_read_only=True))
        computed = handle.info().queue["prefilled_tokens"]
        leader = await handle.submit(request(LONG, n=5))
        followers = [asyncio.create_task(read(handle, request(LONG, n=5, name=f"f{i}"))) for i in range(3)]
        await prefilling(handle, model, 4 * LAYERS + 2)
        leader.cancel()
        for follower in followers:
            assert (await follower).logprobs == right.logprobs
        assert handle.info().queue["prefilled_tokens"] - computed <= 1.2 * len(LONG)

    run(path, model, body, cache=CacheConfig())


def test_a_prompt_that_goes_back_to_the_queue_in_the_middle_of_a_chunk_begins_with_what_was_proven(
    path: Path, model: Watched
) -> None:
    async def body(handle: EngineHandle) -> None:
        session = handle._thread.session
        assert session is not None
        right = await read(handle, request(LONG, n=5, cache_read_only=True))
        computed = handle.info().queue["prefilled_tokens"]
        relieve, gone = Session._relieve, 0

        def squeezed(own: Session) -> None:
            nonlocal gone
            for row in [row for row in own.prefills.rows if row.chunk is not None and row.covered >= 64]:
                if not row.preemptions:
                    gone += 1
                    own.admission.preempt(row)
            relieve(own)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "_relieve", squeezed)
            answer = await read(handle, request(LONG, n=5))
        assert gone == 1
        assert answer.logprobs == right.logprobs
        assert handle.info().queue["prefilled_tokens"] - computed <= len(LONG)

    run(path, model, body, cache=CacheConfig())
