"""What is told of memory and files while nobody asks anything: it goes on to be true."""

import asyncio
import gc
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from backend.config import CacheConfig
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from mlx_cache.disk.system import System
from mlx_cache.disk.tier import DiskTier
from tests.engine.harness import model_config, read, request, settled, with_engine
from tests.models import write_model


def beside_weights(handle: EngineHandle) -> float:
    memory = handle.status().breakdown
    return memory["mlx_active"] - memory["weights"]


async def told(handle: EngineHandle, before: float, *, held: bool) -> None:
    for _ in range(6000):
        if (beside_weights(handle) - before > 100_000) == held:
            return
        await asyncio.sleep(0.01)
    raise AssertionError((before, handle.status()))


@pytest.mark.parametrize("cleared", [True, False])
def test_what_waits_for_a_disk_is_told_until_it_is_written_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cleared: bool
) -> None:
    # Of this process's other tests.
    gc.collect()
    before = mx.get_active_memory()
    go, write = threading.Event(), System.write

    def slow(self: System, *arguments: object) -> int:
        if threading.current_thread().name == "kv-disk-writer":
            go.wait(30)
        return write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(System, "write", slow)

    async def body(handle: EngineHandle) -> None:
        for index in range(3):
            await read(handle, request(f"{index} what is asked " * 40, n=2))
        await settled(handle)
        if cleared:
            # A hit is worth writing.
            await read(handle, request("0 what is asked " * 40, n=2))
            await handle.clear_cache(None)
        else:
            await handle.with_session(lambda session: session.prefix._store.cache.trim_to(n_bytes=0))
        await told(handle, before, held=True)
        go.set()
        # Nobody asks anything any more.
        await told(handle, before, held=False)

    cache = CacheConfig(directory=str(tmp_path / "kv"))
    with_engine(model_config(write_model(tmp_path / "model"), cache=cache), body)


def test_files_that_a_clear_removes_late_are_told_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, clear = threading.Event(), DiskTier.clear_group

    def late(self: DiskTier, namespace: str) -> None:
        go.wait(60)
        clear(self, namespace)

    monkeypatch.setattr(DiskTier, "clear_group", late)

    async def files(handle: EngineHandle, *, some: bool) -> None:
        for _ in range(6000):
            if (handle.info().cache["disk.files"] > 0) == some:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(handle.info().cache)

    def forgo_the_writer(session: Session) -> None:
        # It tells too, but for what has come and gone between two looks of its own.
        session.prefix._store.disk.tier.changed = lambda: None

    async def body(handle: EngineHandle) -> None:
        await read(handle, request("what is asked " * 40, n=2))
        await settled(handle)
        await handle.with_session(lambda session: session.prefix._store.cache.trim_to(n_bytes=0))
        await files(handle, some=True)
        await handle.with_session(forgo_the_writer)
        await handle.clear_cache(None)
        await files(handle, some=True)
        go.set()
        await files(handle, some=False)

    cache = CacheConfig(directory=str(tmp_path / "kv"))
    with_engine(model_config(write_model(tmp_path / "model"), cache=cache), body)
