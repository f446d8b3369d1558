"""What a conversation with an id has left goes with it, however its turns ended."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig
from backend.core.errors import InternalFault
from backend.engine.handle import EngineHandle
from backend.output.stream import OutputStream
from tests.engine.harness import model_config, read, request, settled, with_engine
from tests.models import write_model

TALK: dict[str, Any] = {"name": "t", "conversation_id": "7"}


@pytest.mark.parametrize("how", ["whole", "without its answer", "failed"])
def test_it_goes_however_its_turn_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    async def body(handle: EngineHandle) -> None:
        if how == "failed":
            monkeypatch.setattr(OutputStream, "push", _fail)
        answer = await read(handle, request("what is asked " * 9, cache_answer=how != "without its answer", **TALK))
        assert isinstance(answer.error, InternalFault) if how == "failed" else answer.end is not None
        await settled(handle)
        assert handle.info().queue["cached_kv_bytes"] > 0
        for _ in range(500):
            if not handle.info().queue["cached_kv_bytes"]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(handle.info().cache)

    cache = CacheConfig(conversation_idle_s=0.3)
    with_engine(model_config(write_model(tmp_path / "model"), cache=cache), body)


@pytest.mark.parametrize("family", ["mamba2", "qwen3_next"])
def test_states_on_its_way_go_from_the_disk_too(tmp_path: Path, family: str) -> None:
    """A prompt that comes again is restored from a state in the middle of what its turn left, which is written then."""
    directory = tmp_path / "kv"

    async def body(handle: EngineHandle) -> None:
        for _ in range(2):
            assert (await read(handle, request("what is asked " * 9, **TALK))).end is not None
            await settled(handle)
        for _ in range(500):
            if not handle.info().queue["cached_kv_bytes"] and not list(directory.glob("v1/*/*/*")):
                assert handle.info().cache["disk.writes"] > 0
                return
            await asyncio.sleep(0.01)
        raise AssertionError((handle.info().cache, list(directory.glob("v1/*/*/*"))))

    cache = CacheConfig(conversation_idle_s=1.0, directory=str(directory))
    with_engine(model_config(write_model(tmp_path / "model", family), cache=cache), body)


def _fail(*_: object) -> None:
    raise RuntimeError("planted")
