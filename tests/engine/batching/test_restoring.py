"""Rows that wait for a disk: everybody else goes on, and whatever the disk does, each request has its answer or end."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import DeadlineExceeded
from backend.core.request import Sampling
from backend.engine.batching import prefills
from backend.engine.disk_threads import THREADS
from backend.engine.handle import EngineHandle
from backend.engine.loading import disk as opening
from mlx_cache.disk.system import System
from mlx_cache.disk.tier import DiskTier
from tests import chosen
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

LONG = "A letter that was read once is kept, and whoever asks for it again must wait for the archive to open. " * 6
FREE = Sampling(ignore_eos=True)


class SlowDisk(System):
    """Opens no file for reading while `shut` is set; `rests` are those that reads made for others."""

    def __init__(self) -> None:
        super().__init__()
        self.open_again = threading.Event()
        self.open_again.set()
        self.asked = threading.Event()
        self.rests = 0

    def sleep(self, seconds: float) -> None:
        self.rests += 1

    def open_file(self, *args: Any, **options: Any) -> int:
        self.asked.set()
        assert self.open_again.wait(60)
        return super().open_file(*args, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "qwen3", "qwen3")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    system = SlowDisk()
    monkeypatch.setattr(opening, "DiskTier", partial(DiskTier, system=system))
    yield system
    system.open_again.set()


def config(path: Path, directory: Path) -> Any:
    return model_config(path, cache=CacheConfig(directory=str(directory)))


def kept(path: Path, directory: Path) -> Answer:
    """Have a first process leave the prompt on the disk; its answer."""

    async def body(handle: EngineHandle) -> Answer:
        return await read(handle, request(LONG, n=5))

    return with_engine(config(path, directory), body)


async def asked(slow: SlowDisk) -> None:
    assert await asyncio.to_thread(slow.asked.wait, 20)


def test_others_go_on_while_a_row_waits_for_its_disk(path: Path, tmp_path: Path, slow: SlowDisk) -> None:
    first = kept(path, tmp_path / "kv")

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        waiting = asyncio.create_task(read(handle, request(LONG, n=5)))
        follower = asyncio.create_task(read(handle, request(LONG, n=5, name="follower")))
        await asked(slow)
        other = await read(handle, request("Somebody else. ", n=5, cache_read_only=True))
        assert other.error is None and not waiting.done() and not follower.done()
        slow.open_again.set()
        for answer in (await waiting, await follower):
            assert answer.logprobs == first.logprobs
            assert answer.end is not None and answer.end.usage.cached_tokens == len(LONG) - 1
        assert handle.info().queue["prefilled_tokens"] < 100

    with_engine(config(path, tmp_path / "kv"), body)


def test_a_read_rests_between_its_pieces_while_others_decode(path: Path, tmp_path: Path, slow: SlowDisk) -> None:
    kept(path, tmp_path / "kv")

    async def body(handle: EngineHandle) -> None:
        for beside in (False, True):
            slow.open_again.clear()
            other = await handle.submit(request("Somebody else. ", n=3000 if beside else 1, sampling=FREE))
            await anext(aiter(other))
            if not beside:
                await settled(handle)
            waiting = asyncio.create_task(read(handle, request(LONG, n=1, cache_read_only=True)))
            await asked(slow)
            slow.open_again.set()
            await waiting
            assert (slow.rests > 0) == beside
            other.cancel()
            slow.asked.clear()

    with_engine(config(path, tmp_path / "kv"), body)


def test_a_disk_that_does_not_answer_is_given_up(
    path: Path, tmp_path: Path, slow: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept(path, tmp_path / "kv")
    monkeypatch.setattr(prefills, "READ_SECONDS", 0.2)

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        for _ in range(2):
            answer = await read(handle, request(LONG, n=5, cache_read_only=True))
            assert answer.logprobs == first.logprobs
            assert answer.end is not None and answer.end.usage.cached_tokens == 0
        assert handle.info().queue["disk_waits_ended"] == 2
        slow.open_again.set()

    with_engine(config(path, tmp_path / "kv"), body)


def test_a_row_that_waits_for_its_disk_can_be_cancelled_and_has_its_deadline(
    path: Path, tmp_path: Path, slow: SlowDisk
) -> None:
    kept(path, tmp_path / "kv")

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        late = await read(handle, request(LONG, n=5, deadline=time.monotonic() + 0.3))
        assert isinstance(late.error, DeadlineExceeded)
        stream = await handle.submit(request(LONG, n=5))
        await asked(slow)
        stream.cancel()
        while handle.info().queue["in_flight"] or handle.info().queue["prefilling"]:
            await asyncio.sleep(0.005)
        slow.open_again.set()

    with_engine(config(path, tmp_path / "kv"), body)


def test_the_queue_moves_on_when_a_row_ends_while_another_waits_for_its_disk(
    path: Path, tmp_path: Path, slow: SlowDisk
) -> None:
    kept(path, tmp_path / "kv")
    two = replace(config(path, tmp_path / "kv"), engine=EngineConfig(max_rows=2, sampler=chosen.sampler))

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        waiting = asyncio.create_task(read(handle, request(LONG, n=5)))
        await asked(slow)
        decodes = asyncio.create_task(read(handle, request("One that decodes. ", n=30, cache_read_only=True)))
        queued = asyncio.create_task(read(handle, request("One in the queue. ", n=5, cache_read_only=True)))
        for other in (decodes, queued):
            assert (await asyncio.wait_for(other, 30)).error is None
        assert not waiting.done()
        slow.open_again.set()
        assert (await waiting).error is None

    with_engine(two, body)


def test_a_disk_whose_threads_all_hang_is_not_asked_any_more(
    path: Path, tmp_path: Path, slow: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(path, tmp_path / "kv")
    monkeypatch.setattr(prefills, "READ_SECONDS", 0.1)

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        for _ in range(THREADS):
            await read(handle, request(LONG, n=2, cache_read_only=True))
        monkeypatch.setattr(prefills, "READ_SECONDS", 100.0)
        assert (await asyncio.wait_for(read(handle, request(LONG, n=2, cache_read_only=True)), 30)).error is None
        assert handle.info().queue["disk_waits_ended"] == THREADS
        slow.open_again.set()

    with_engine(config(path, tmp_path / "kv"), body)


def test_names_that_only_a_disk_has_take_nothing_of_the_budget(path: Path, tmp_path: Path) -> None:
    kept_config = config(path, tmp_path / "kv")

    async def name(handle: EngineHandle) -> None:
        for index in range(4):
            await handle.create_prefix(request(f"{index} {LONG}", keep_as=f"n{index}", prefill_only=True))

    async def ask(handle: EngineHandle) -> None:
        assert {facts.where for facts in await handle.list_prefixes("")} == {"disk"}
        answer = await read(handle, request(f"2 {LONG}And?", n=3))
        assert answer.end is not None and answer.end.usage.cached_tokens >= len(LONG)

    with_engine(kept_config, name)
    with_engine(replace(kept_config, engine=EngineConfig(kv_bytes=1_600_000, sampler=chosen.sampler)), ask)


def test_free_ends_a_row_that_waits_for_its_disk(path: Path, tmp_path: Path, slow: SlowDisk) -> None:
    kept(path, tmp_path / "kv")

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        waiting = asyncio.create_task(read(handle, request(LONG, n=5)))
        await asked(slow)
        await handle.free()
        assert (await waiting).error is not None
        slow.open_again.set()

    with_engine(config(path, tmp_path / "kv"), body)


def test_an_idle_engine_that_waits_for_a_disk_does_not_spin(path: Path, tmp_path: Path, slow: SlowDisk) -> None:
    kept(path, tmp_path / "kv")

    async def body(handle: EngineHandle) -> None:
        slow.open_again.clear()
        waiting = asyncio.create_task(read(handle, request(LONG, n=5)))
        await asked(slow)
        steps, step = 0, handle._thread.session.step  # type: ignore[union-attr]

        def counted() -> None:
            nonlocal steps
            steps += 1
            step()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(handle._thread.session), "step", lambda own: counted())
            await asyncio.sleep(0.3)
            # The step that began to wait may end in it.
            assert steps <= 1
        slow.open_again.set()
        assert (await waiting).error is None

    with_engine(config(path, tmp_path / "kv"), body)
