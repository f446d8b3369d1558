"""Prompts that arrive together prefill what they share once, whoever of them leaves or comes late."""

import asyncio
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig, ModelConfig
from backend.core.request import GenerationRequest
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model

SHARED = "what they all begin with " * 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


def config(path: Path) -> ModelConfig:
    return model_config(path, engine=EngineConfig(prefill_chunk=32), cache=CacheConfig())


async def prefilled(handle: EngineHandle) -> float:
    queue = handle.info().queue
    while queue["in_flight"]:
        await asyncio.sleep(0.002)
        queue = handle.info().queue
    return queue["prefilled_tokens"]


def test_when_the_leader_leaves_one_of_the_followers_leads(path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        leader = await handle.submit(request(SHARED, n=3))
        followers = [asyncio.create_task(read(handle, request(SHARED, n=3, name=f"f{i}"))) for i in range(7)]
        while handle.info().queue.get("prefilled_tokens", 0) < 64:
            await asyncio.sleep(0.001)
        leader.cancel()
        assert len({(await follower).text for follower in followers}) == 1
        assert await prefilled(handle) <= 1.2 * len(SHARED)

    with_engine(config(path), body)


def test_a_prompt_that_comes_after_the_shared_part_was_passed_still_takes_it(path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        long = await handle.submit(request(SHARED + "tail " * 300, n=3))
        while handle.info().queue.get("prefilled_tokens", 0) < len(SHARED) + 64:
            await asyncio.sleep(0.001)
        late = await read(handle, request(SHARED + "another end", n=3))
        assert late.end is not None and late.end.usage.cached_tokens >= len(SHARED)
        long.cancel()
        await prefilled(handle)

    with_engine(config(path), body)


@pytest.mark.parametrize("family", ["qwen3_next", "mamba2"])
def test_states_are_stored_where_they_may_be_wanted_and_not_at_every_chunk(family: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / family, family)

    async def body(handle: EngineHandle) -> None:
        answer = await read(handle, request(SHARED, n=3))
        assert answer.error is None
        assert handle.info().cache["inserts"] <= 3

    with_engine(config(path), body)


def test_read_only_requests_store_nothing(path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        wanted: GenerationRequest = request(SHARED, n=3, cache_read_only=True)
        await read(handle, wanted)
        assert handle.info().cache["inserts"] == 0

    with_engine(config(path), body)


def test_one_that_had_to_go_while_it_waited_for_its_leader_is_looked_up_and_counted_once_back(path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        relieve, gone = Session._relieve, 0

        def squeezed(own: Session) -> None:
            nonlocal gone
            for row in [row for row in own.prefills.rows if row.leader is not None and not row.preemptions]:
                gone += 1
                own.admission.preempt(row)
            relieve(own)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "_relieve", squeezed)
            both = [asyncio.create_task(read(handle, request(SHARED, n=3, name=name))) for name in ("leads", "follows")]
            ends = [(await one).end for one in both]
        assert gone == 1
        assert max(end.usage.cached_tokens for end in ends if end is not None) >= len(SHARED) // 2
        assert handle.info().cache["fetches"] == 2 and handle.info().cache["hits"] == 1

    with_engine(config(path), body)
