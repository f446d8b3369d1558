"""Whatever fails on the device beside embeddings, scores and ranks: those end whose work it was, and no others."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import InternalFault, WorkerError
from backend.core.pooled import EmbedAsk, PooledRequest, PooledResult, RerankAsk, ScoreAsk
from backend.engine import waits
from backend.engine.batching import assembly
from backend.engine.handle import EngineHandle
from tests.engine.faulty_device import FaultyDevice
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model
from tests.straight import with_yes_and_no
from tests.tiers import slow

SHARED = "A prompt that a score and an answer have in common, for more than sixty-four characters: "
STREAMS = {
    name: request(prompt, n=n, name=name)
    for name, prompt, n in (("one", "the first stream", 24), ("two", "another", 16), ("three", SHARED + "go on", 8))
}
NUMBERS = {
    name: PooledRequest(request_id=name, ask=ask)
    for name, ask in (
        ("short", EmbedAsk(text="a short text")),
        ("alike", EmbedAsk(text="another text")),
        ("long", EmbedAsk(text="a text of several chunks, one after another. " * 3)),
        ("score", ScoreAsk(prompt=SHARED, candidates=(" yes", " no, never", ""))),
        ("rank", RerankAsk(query="texts", documents=("one text", "two texts of more words", "three"))),
    )
}
Result = Answer | PooledResult | WorkerError


async def scenario(handle: EngineHandle) -> dict[str, Result]:
    seen: dict[str, Result] = {}

    async def answer(name: str) -> None:
        got = await read(handle, STREAMS[name])
        seen[name] = got if got.error is None else got.error

    async def number(name: str) -> None:
        try:
            result = (await handle.compute(NUMBERS[name])).result
            assert result is not None
            seen[name] = result
        except WorkerError as error:
            seen[name] = error

    await asyncio.gather(*map(answer, STREAMS), *map(number, NUMBERS))
    return seen


def check(seen: dict[str, Result], right: dict[str, Result]) -> frozenset[str]:
    """All that did not end with a fault of ours is as it should be; the names of those that did."""
    failed: set[str] = set()
    for name, got in seen.items():
        expected = right[name]
        if isinstance(got, WorkerError):
            assert isinstance(got, InternalFault), got
            failed.add(name)
        elif isinstance(got, Answer):
            assert isinstance(expected, Answer) and got.logprobs == expected.logprobs, name
        else:
            assert got == expected, name
    return frozenset(failed)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_yes_and_no(write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3", layers=3))


def run(
    path: Path,
    sampler: str,
    monkeypatch: pytest.MonkeyPatch,
    trial: Callable[[EngineHandle, FaultyDevice, dict[str, Result]], Awaitable[None]],
) -> None:
    device = FaultyDevice()
    monkeypatch.setattr(waits, "evaluate", device.evaluate)
    # Passes in slices of a layer, with steps of the batch between them.
    monkeypatch.setitem(assembly.SLICE_SECONDS, "cpu", 0.0)

    async def body(handle: EngineHandle) -> None:
        device.session = handle._thread.session
        right: dict[str, Result] = {}
        for name, stream in STREAMS.items():
            right[name] = await read(handle, stream)
        for name, number in NUMBERS.items():
            result = (await handle.compute(number)).result
            assert result is not None
            right[name] = result
        await trial(handle, device, right)

    engine = EngineConfig(prefill_chunk=32, sampler=sampler)  # type: ignore[arg-type]
    with_engine(model_config(path, engine=engine, cache=CacheConfig()), body, load=device.load)


@pytest.mark.parametrize("late", [slow(False, name="wait"), pytest.param(True, id="call")])
@pytest.mark.parametrize(
    ("sampler", "first", "stride"),
    [
        ("device", 2, 61),
        pytest.param("host", 5, 43, marks=[pytest.mark.slow]),
        pytest.param("device", 1, 5, marks=[pytest.mark.slow]),
        pytest.param("device", 1, 1, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)]),
        pytest.param("host", 1, 1, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)]),
    ],
)
def test_those_end_whose_work_failed(
    path: Path, sampler: str, first: int, stride: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trial(handle: EngineHandle, device: FaultyDevice, right: dict[str, Result]) -> None:
        assert device.session is not None
        kinds: set[str] = set()
        for n in range(first, 2000, stride):
            device.session.prefix.forget()
            device.arm(call=n) if late else device.arm(wait=n)
            failed = check(await scenario(handle), right)
            queue = await settled(handle)
            assert queue["live_kv_bytes"] == 0
            if device.failed is None:
                break
            told = device.told if late else device.failed
            assert told is not None
            kinds.add(told.kind)
            assert failed == told.names, (n, device.failed, device.told)
            assert not check(await scenario(handle), right)
        else:
            raise AssertionError("no run came to its end without a failure")
        assert "pooled" in kinds or stride > 5

    run(path, sampler, monkeypatch, trial)
