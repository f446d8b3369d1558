"""How much of the allowance for names each tenant may have."""

from pathlib import Path

import pytest

from backend.config import CacheConfig
from backend.core.errors import Overloaded
from backend.engine.batching import room
from backend.engine.handle import EngineHandle
from tests.engine.harness import model_config, request, with_engine
from tests.models import write_model

NAMES = 8


async def given(handle: EngineHandle, tenant: str, *, first: int = 0) -> int:
    """Names that a tenant gets until it is refused one."""
    for count in range(NAMES + 1):
        wanted = request(f"{tenant} {first + count} ", keep_as=f"n{first + count}", prefill_only=True, tenant=tenant)
        try:
            await handle.create_prefix(wanted)
        except Overloaded:
            return count
    raise AssertionError("there is no end of names")


def test_no_tenant_takes_the_names_of_those_who_come_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_NAMES", NAMES)

    async def body(handle: EngineHandle) -> None:
        assert [await given(handle, tenant) for tenant in ("alice", "bob", "carol")] == [4, 2, 1]
        # The host itself has what is left, and a name that is there is no further one.
        assert await given(handle, "") == 1
        await handle.create_prefix(request("again", keep_as="n0", prefill_only=True, tenant="alice"))
        assert await given(handle, "dave") == 0

    with_engine(model_config(write_model(tmp_path / "qwen3", "qwen3"), cache=CacheConfig()), body)
