"""Whatever fails on the device and whoever waits first: only those end whose work it was, and nothing of it is kept."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import DeadlineExceeded, InternalFault
from backend.core.request import GenerationRequest, Sampling
from backend.engine import waits
from backend.engine.batching import assembly
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.group_cost import PaddingBounds
from backend.engine.batching.memory import MemoryBudget
from backend.engine.handle import EngineHandle
from tests.engine.faulty_device import FaultyDevice, spoil
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model
from tests.tiers import slow

SHARED = "what two of them begin with, for more than sixty-four characters, that is: two chunks and a half. "
DRAWN = Sampling(temperature=1.0, repetition_penalty=1.1, seed=7, ignore_eos=True)
ENDLESS = Sampling(ignore_eos=True)
WANTED = {
    item.request_id: item
    for item in (
        request(SHARED + "the first", n=8, name="leads"),
        request(SHARED + "another", n=8, name="follows"),
        request("short, and drawn", n=26, name="drawn", sampling=DRAWN),
        request("short, and greedy", n=14, name="greedy"),
        request("it leaves after some tokens", n=60, name="leaves", sampling=ENDLESS),
        request("its deadline passes", n=200, name="late", sampling=ENDLESS),
        request(
            "a prompt that is prefilled beside those that decode, in four chunks of thirty-two tokens", n=6, name="z"
        ),
        request(SHARED + "the first", n=10, name="again", sampling=DRAWN),
        request("the last one", n=5, name="last"),
    )
}
# What becomes of these is their clients' doing, or the clock's.
PASSING = frozenset({"leaves", "late"})


class Squeeze:
    """Once a run, as soon as three rows decode, a budget that has no room for all of them: one goes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        fits = MemoryBudget.fits

        def squeezed(budget: MemoryBudget, live: int) -> bool:
            caller = sys._getframe(1)
            if self.armed and caller.f_code.co_name == "relieved" and len(caller.f_locals["self"].groups) >= 3:
                self.armed = False
                return False
            return fits(budget, live)

        monkeypatch.setattr(MemoryBudget, "fits", squeezed)


async def scenario(handle: EngineHandle) -> dict[str, Answer]:
    """Joins, leaves, a cancel, a deadline, a row that goes back, stores, hits, and prompts beside those who decode."""
    seen: dict[str, Answer] = {}

    async def ask(name: str, wanted: GenerationRequest | None = None, **options: int) -> None:
        seen[name] = await read(handle, wanted or WANTED[name], **options)

    late = request("its deadline passes", n=200, name="late", sampling=ENDLESS, deadline=time.monotonic() + 0.03)
    first = asyncio.gather(
        ask("drawn"), ask("leads"), ask("follows"), ask("leaves", cancel_after=3), ask("greedy"), ask("late", late)
    )
    while len(seen) < 1 and handle.info().queue.get("decoding", 0) < 2:
        await asyncio.sleep(0.0005)
    await asyncio.gather(ask("z"), first)
    await asyncio.gather(ask("again"), ask("last"))
    return seen


def check(seen: dict[str, Answer], right: dict[str, Answer]) -> set[str]:
    """Every answer is exact, as far as it goes; those that ended with a fault of ours."""
    failed: set[str] = set()
    for name, answer in seen.items():
        if isinstance(answer.error, InternalFault):
            failed.add(name)
        elif answer.error is not None:
            assert name == "late" and isinstance(answer.error, DeadlineExceeded)
        elif name != "leaves":
            assert answer.logprobs == right[name].logprobs
        streamed = "".join(delta.piece.content for delta in answer.deltas)
        assert right[name].text.startswith(streamed)
    return failed


def run(path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch, trial: Callable[..., Awaitable[None]]) -> None:
    """`trial(handle, device, fresh, right)`: `fresh` empties the prompt cache and arms what squeezes."""
    device, squeeze = FaultyDevice(), Squeeze(monkeypatch)
    monkeypatch.setattr(waits, "evaluate", device.evaluate)
    # A chunk in slices of a layer, with steps of the batches between them.
    monkeypatch.setitem(assembly.SLICE_SECONDS, "cpu", 0.0)

    async def body(handle: EngineHandle) -> None:
        session = handle._thread.session
        assert session is not None
        device.session = session
        # Two groups: the long ones and the short ones.
        session.groups._bounds = PaddingBounds(40 * session.loaded.kv_cost.per_token, session.budget.total)

        def fresh() -> None:
            session.prefix.forget()
            squeeze.armed = True

        right = {name: await read(handle, item) for name, item in WANTED.items()}
        await trial(handle, device, fresh, right)
        queue = handle.info().queue
        assert queue["preemptions"] > 0 and queue["cached_tokens"] > 0

    engine = EngineConfig(prefill_chunk=32, sampler=sampler, max_rows=8)  # type: ignore[arg-type]
    with_engine(model_config(path, engine=engine, cache=CacheConfig()), body, load=device.load)


async def ask_again(handle: EngineHandle, right: dict[str, Answer]) -> None:
    """Nobody is served what a failed step left behind."""
    names = [name for name in WANTED if name not in PASSING]
    answers = await asyncio.gather(*(read(handle, WANTED[name]) for name in names))
    assert [answer.error for answer in answers] == [None] * len(names)
    for name, answer in zip(names, answers, strict=True):
        assert answer.logprobs == right[name].logprobs, name


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3", layers=3)


ALL = [pytest.mark.exhaustive, pytest.mark.timeout(400)]
OFTEN = [
    pytest.param("host", 2, 13, marks=pytest.mark.slow),
    pytest.param("device", 4, 13, marks=pytest.mark.slow),
    *(pytest.param(sampler, n, 2, marks=ALL) for sampler in ("host", "device") for n in (1, 2)),
]


@pytest.mark.parametrize(("sampler", "first", "stride"), [slow("host", 9, 59), ("device", 5, 59), *OFTEN])
def test_whichever_wait_fails_those_end_whose_wait_it_was(
    path: Path, sampler: str, first: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trial(
        handle: EngineHandle, device: FaultyDevice, fresh: Callable[[], None], right: dict[str, Answer]
    ) -> None:
        kinds: set[str] = set()
        for n in range(first, 1000, stride):
            fresh()
            device.arm(wait=n)
            failed = check(await scenario(handle), right)
            await settled(handle)
            if device.failed is None:
                break
            kinds.add(device.failed.kind)
            assert failed - PASSING == device.failed.names - PASSING, (n, device.failed)
            await ask_again(handle, right)
        else:
            raise AssertionError("no run came to its end without a failure")
        if stride == 2:
            assert kinds == {"batch", "prompt", "cache"}
            # The host waits for each of its batches' steps.
            assert sampler == "host" or device.beside == {"batch", "prompt"}

    run(path, sampler, monkeypatch, trial)


@pytest.mark.parametrize(("sampler", "first", "stride"), [("device", 3, 59), *OFTEN])
def test_whatever_is_computed_wrongly_nobody_is_sent_it_and_others_go_on(
    path: Path, sampler: str, first: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trial(
        handle: EngineHandle, device: FaultyDevice, fresh: Callable[[], None], right: dict[str, Answer]
    ) -> None:
        for n in range(first, 1000, stride):
            fresh()
            device.arm(call=n, late=n % 2 == 0)
            failed = check(await scenario(handle), right)
            await settled(handle)
            if device.failed is None:
                break
            assert device.told is not None
            assert failed - PASSING == device.told.names - PASSING, (n, device.failed, device.told)
            assert device.told.kind in {device.failed.kind, "batch"}
            await ask_again(handle, right)
        else:
            raise AssertionError("no run came to its end without a failure")

    run(path, sampler, monkeypatch, trial)


def test_a_step_that_nobody_waits_for_any_more_fails_nobody_who_comes_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FaultyDevice()
    monkeypatch.setattr(waits, "evaluate", device.evaluate)

    async def body(handle: EngineHandle) -> None:
        device.session = handle._thread.session
        wanted = request("runs a step ahead, which is in vain at its end", n=5)
        device.arm()
        right = await read(handle, wanted)
        for call in range(device.calls, 0, -1):
            device.arm(call=call)
            first = await read(handle, wanted)
            assert isinstance(first.error, InternalFault) or (first.logprobs == right.logprobs and call > 5)
            assert (await read(handle, wanted)).logprobs == right.logprobs

    config = model_config(path, engine=EngineConfig(prefill_chunk=32, sampler="device"))
    with_engine(config, body, load=device.load)


@pytest.mark.slow
def test_a_failure_that_is_told_when_a_slice_is_put_may_be_that_of_a_step_in_flight(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, spoiled = Chunk.put, list[int]()

    async def trial(
        handle: EngineHandle, device: FaultyDevice, fresh: Callable[[], None], right: dict[str, Answer]
    ) -> None:
        session = handle._thread.session
        assert session is not None

        def failing(chunk: Chunk, layers: int) -> None:
            in_flight = [batch for batch in session.groups.batches if batch.in_flight]
            if in_flight and not spoiled:
                spoiled.append(len(in_flight))
                for batch in in_flight:
                    spoil([(cache.keys, cache.values) for cache in batch._caches])
                raise RuntimeError("planted")
            put(chunk, layers)

        monkeypatch.setattr(Chunk, "put", failing)
        for _ in range(20):
            fresh()
            failed = check(await scenario(handle), right)
            await settled(handle)
            await ask_again(handle, right)
            if spoiled:
                assert len(failed) == 1
                return
        raise AssertionError("no slice was put beside a step in flight")

    run(path, "device", monkeypatch, trial)
