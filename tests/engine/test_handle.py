"""The engine's own thread, lent to whoever measures."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from backend.core.errors import ModelNotLoaded, Overloaded
from backend.core.request import Conversation, Message
from backend.engine import reports
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from backend.engine.preparing.lanes import MOST_UNQUEUED
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model


def test_work_gets_the_session_on_its_thread_and_its_errors_come_back(tmp_path: Path) -> None:
    async def body(engine: EngineHandle) -> None:
        there = await engine.with_session(lambda session: (threading.current_thread().name, session.loaded.vocab_size))
        assert there == ("engine", 272)
        with pytest.raises(ZeroDivisionError):
            await engine.with_session(lambda session: 1 / 0)
        assert (await read(engine, request("still there"))).end is not None

    with_engine(model_config(write_model(tmp_path / "model")), body)


def test_a_session_that_has_gone_can_be_named_and_tells_nothing_of_its_requests(tmp_path: Path) -> None:
    """As a test that fails does, and a debugger."""

    async def body(engine: EngineHandle) -> None:
        session = await engine.with_session(lambda session: session)
        assert "Session" in repr(session) and "rows" not in repr(session)
        await engine.free()
        assert "Session" in repr(session)

    with_engine(model_config(write_model(tmp_path / "model")), body)


def test_a_request_is_answered_while_the_tokenizer_is_asked_for_more_than_it_can_do(tmp_path: Path) -> None:
    go_on = threading.Event()

    async def body(engine: EngineHandle) -> None:
        model = engine._loads.current
        assert model is not None
        # The threads of short work are busy, all others are not.
        asked: list[asyncio.Future[object]] = [asyncio.ensure_future(model.prep.run_unqueued(0, go_on.wait, 120))]
        asked += [asyncio.ensure_future(ask) for _ in range(10) for ask in (engine.tokenize("a"), engine.model_facts())]
        asked += [asyncio.ensure_future(engine.detokenize([1])) for _ in range(MOST_UNQUEUED - len(asked))]
        await asyncio.sleep(0)
        for ask in (engine.tokenize("a"), engine.detokenize([1]), engine.model_facts()):
            with pytest.raises(Overloaded, match="TokenizeString, Detokenize and ModelMetadata"):
                await ask
        assert (await read(engine, request(Conversation(messages=(Message(role="user", content="hello"),))))).end
        assert not any(task.done() for task in asked)
        asked.pop().cancel()
        await asyncio.sleep(0)
        # A long one has a thread of its own, whatever it is.
        ids = [1] * ((64 << 10) + 1)
        assert await engine.detokenize(ids) == model.table.decode(ids)
        assert not any(task.done() for task in asked)
        go_on.set()
        await asyncio.gather(*asked)

    try:
        with_engine(model_config(write_model(tmp_path / "model")), body)
    finally:
        go_on.set()


def test_without_a_model_there_is_no_session() -> None:
    async def body(engine: EngineHandle) -> None:
        with pytest.raises(ModelNotLoaded):
            await engine.with_session(lambda session: session)

    with_engine(None, body)


def test_versions_of_libraries_are_not_looked_up_by_who_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on the disk, and the event loop asks."""
    readers: list[str] = []
    version = reports.version
    monkeypatch.setattr(
        reports, "version", lambda name: readers.append(threading.current_thread().name) or version(name)
    )
    reports.library_versions.cache_clear()

    async def body(engine: EngineHandle) -> None:
        assert engine.info().details["mlx-lm"]
        assert set(readers) == {"engine"}

    with_engine(model_config(write_model(tmp_path / "model")), body)


def _count(session: Session, count: int) -> None:
    session.counters.requests = count


def test_who_hears_that_work_is_done_finds_it_in_the_figures(tmp_path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        for count in range(100):
            await handle.with_session(partial(_count, count=count))
            assert handle.info().queue["requests"] == count

    with_engine(model_config(write_model(tmp_path / "qwen3", "qwen3")), body)
