"""What a request leaves in the prompt cache is stored once its client has the end."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import DeadlineExceeded
from backend.core.request import Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.handle import EngineHandle
from mlx_cache import PromptCache
from tests.engine.harness import NO_CACHE, model_config, read, request, with_engine
from tests.models import write_model

PROMPT = "a prompt whose answer is kept"
PATIENCE = 10.0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


class HeldStore:
    """Holds every store of an answer, on the engine thread, until the test lets it go; those of prompts pass."""

    def __init__(self, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released = threading.Event()
        self.timed_out = False
        self.error: BaseException | None = None
        insert = PromptCache.insert

        def held(store: PromptCache, key: Any, tokens: Any, caches: Any, **options: Any) -> Any:
            if len(tokens) > len(prompt):
                self.timed_out |= not self.released.wait(PATIENCE)
                if self.error is not None:
                    raise self.error
            return insert(store, key, tokens, caches, **options)

        monkeypatch.setattr(PromptCache, "insert", held)


def run(
    path: Path,
    body: Callable[[EngineHandle], Awaitable[None]],
    *,
    sampler: str,
    cache: CacheConfig | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    engine = EngineConfig(prefill_chunk=32, sampler=sampler)  # type: ignore[arg-type]
    with_engine(model_config(path, engine=engine, cache=cache or CacheConfig()), body, clock=clock)


@pytest.mark.parametrize("sampler", ["host", "device"])
def test_the_end_reaches_its_client_before_the_store_and_what_follows_finds_what_was_stored(
    path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle) -> None:
        store = HeldStore(PROMPT, monkeypatch)
        first = await read(handle, request(PROMPT, n=8))
        assert first.end is not None and not store.released.is_set()
        queue = handle.info().queue
        assert (queue["in_flight"], queue["decoding"], queue["storing"]) == (0, 0, 1)
        assert queue["generated_tokens"] == 8
        following = asyncio.create_task(read(handle, request(PROMPT + first.text + " and more", n=4)))
        while not handle.info().queue["in_flight"]:
            await asyncio.sleep(0.001)
        store.released.set()
        end = (await following).end
        assert not store.timed_out
        # Some of the answer too, as far as its text gives the same tokens.
        assert end is not None and end.usage.cached_tokens > len(PROMPT)

    run(path, body, sampler=sampler)


@pytest.mark.parametrize("sampler", ["host", "device"])
def test_a_fault_at_the_store_costs_a_hit_and_no_request(
    path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle) -> None:
        alone = await read(handle, request(PROMPT, n=8, cache_read_only=True))
        store = HeldStore(PROMPT, monkeypatch)
        store.error = RuntimeError("planted")
        store.released.set()
        others = [read(handle, request(f"{index} neighbour", n=40)) for index in range(2)]
        answers = await asyncio.gather(*(read(handle, request(PROMPT, n=8)) for _ in range(2)), *others)
        assert all(answer.error is None for answer in answers)
        assert answers[0].logprobs == answers[1].logprobs == alone.logprobs
        assert handle.info().queue["failed"] == 0

    run(path, body, sampler=sampler)


def test_a_deadline_is_told_before_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [0.0]

    def clock() -> float:
        return time.monotonic() + ahead[0]

    async def body(handle: EngineHandle) -> None:
        store = HeldStore(PROMPT, monkeypatch)
        endless = Sampling(ignore_eos=True)
        reading = asyncio.create_task(read(handle, request(PROMPT, n=3000, sampling=endless, deadline=clock() + 1000)))
        while handle.info().queue["generated_tokens"] < 5:
            await asyncio.sleep(0.001)
        ahead[0] = 1001.0
        answer = await reading
        assert isinstance(answer.error, DeadlineExceeded)
        assert not store.released.is_set() and not store.timed_out
        store.released.set()
        following = await read(handle, request(PROMPT + answer.text, n=2))
        assert following.end is not None and following.end.usage.cached_tokens > len(PROMPT)

    run(path, body, sampler="host", clock=clock)


def test_without_a_cache_no_row_is_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewed: list[object] = []
    monkeypatch.setattr(DecodeBatch, "view", lambda _self, row: viewed.append(row) or [])

    async def body(handle: EngineHandle) -> None:
        await asyncio.gather(*(read(handle, request(f"{index} {PROMPT}", n=4)) for index in range(2)))

    run(path, body, sampler="device", cache=NO_CACHE)
    assert viewed == []
