"""How much of the allowance for names each tenant may have."""

from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import Overloaded
from backend.engine.batching import room
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model

NAMES, LENGTH = 8, 20


async def given(handle: EngineHandle, tenant: str, *, first: int = 0) -> int:
    """Names that a tenant gets until it is refused one."""
    for count in range(NAMES + 1):
        text = f"{tenant} {first + count} ".ljust(LENGTH)
        wanted = request(text, keep_as=f"n{first + count}", prefill_only=True, tenant=tenant)
        try:
            await handle.create_prefix(wanted)
        except Overloaded:
            return count
    raise AssertionError("there is no end of names")


async def one_prefix(handle: EngineHandle) -> int:
    """Bytes of a prefix."""
    return await handle.with_session(lambda session: session.budget.cost.bytes_for(LENGTH))


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_what_is_named_of_a_longer_text_holds_what_rows_leave_out_for_it_and_no_more(
    tmp_path: Path, family: str
) -> None:
    text = "what many begin with, and then what one of them goes on with. " * 3

    async def body(handle: EngineHandle) -> None:
        assert (await read(handle, request(text))).error is None
        await handle.create_prefix(request(text[:LENGTH], keep_as="rules", prefill_only=True))

        def squeezed(session: Session) -> tuple[int, int]:
            session.prefix.limit_to(0)
            return session.prefix.nbytes, session.room.named()

        held, named = await handle.with_session(squeezed)
        assert 0 < held <= named

    with_engine(model_config(write_model(tmp_path / family, family), cache=CacheConfig()), body)


def test_names_leave_room_for_a_request_however_many_the_host_gives(tmp_path: Path) -> None:
    """Also of a model with few layers, whose copies take half of the budget, and with a prompt cache of all of it."""
    path, needs = write_model(tmp_path / "mamba2", "mamba2"), list[int]()

    async def measured(handle: EngineHandle) -> None:
        needs.append(await handle.with_session(lambda session: session.budget.with_copies(session.budget.projected(9))))

    async def body(handle: EngineHandle) -> None:
        assert await given(handle, "") > 0
        assert (await read(handle, request("short"))).error is None

    with_engine(model_config(path), measured)
    tight = EngineConfig(kv_bytes=int(3.4 * needs[0]))
    with_engine(model_config(path, engine=tight, cache=CacheConfig(max_bytes=100 * needs[0])), body)


@pytest.mark.parametrize("what", ["names", "bytes"])
def test_no_tenant_takes_the_allowance_of_those_who_come_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3")
    max_bytes = None
    if what == "names":
        monkeypatch.setattr(room, "MOST_NAMES", NAMES)
    else:
        # Half of it is for names.
        max_bytes = 2 * NAMES * with_engine(model_config(path), one_prefix)

    async def body(handle: EngineHandle) -> None:
        assert [await given(handle, tenant) for tenant in ("alice", "bob", "carol")] == [4, 2, 1]
        # The host itself has what is left, and a name that is there is no further one.
        assert await given(handle, "") == 1
        await handle.create_prefix(request("again".ljust(LENGTH), keep_as="n0", prefill_only=True, tenant="alice"))
        assert await given(handle, "dave") == 0

    with_engine(model_config(path, cache=CacheConfig(max_bytes=max_bytes)), body)
