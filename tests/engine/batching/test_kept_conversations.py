"""Conversations that outlive the process: their limit and their idle time hold in the next one."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.config import CacheConfig
from backend.core.request import Sampling
from backend.engine.batching import cache_disk
from backend.engine.handle import EngineHandle
from tests.engine.harness import model_config, read, request, settled, with_engine
from tests.models import write_model

TEXTS = {name: f"{name} is what this letter begins with, and it goes on for long enough. " * 6 for name in "abc"}
FREE = Sampling(ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


def process(model: Path, directory: Path, talk: dict[str, str], *, clear: str | None = None, **options: object) -> str:
    """A process's life with a turn of each conversation, by its text; the texts that are on the disk after it."""
    cache = replace(CacheConfig(directory=str(directory)), **options)  # type: ignore[arg-type]

    async def body(handle: EngineHandle) -> None:
        for text, conversation in talk.items():
            await read(handle, request(TEXTS[text], n=1, sampling=FREE, conversation_id=conversation, tenant="t"))
        if clear is not None:
            await handle.clear_cache(clear)
        await settled(handle)

    async def there(handle: EngineHandle) -> str:
        found = ""
        for name, text in TEXTS.items():
            asked = request(text, n=1, sampling=FREE, cache_read_only=True, tenant="t")
            answer = await read(handle, asked)
            assert answer.end is not None
            found += name if answer.end.usage.cached_tokens else ""
        return found

    with_engine(model_config(model, cache=cache), body)
    return with_engine(model_config(model, cache=replace(cache, conversation_idle_s=None, max_conversations=99)), there)


def conversations(directory: Path) -> int:
    return len(list(directory.glob("conversations/*.json")))


@pytest.mark.slow
def test_the_idlest_of_too_many_goes_whichever_process_had_its_last_turn(model: Path, tmp_path: Path) -> None:
    assert process(model, tmp_path / "kv", {"a": "1", "b": "2"}) == "ab"
    assert process(model, tmp_path / "kv", {"a": "1"}, max_conversations=2) == "ab"
    assert process(model, tmp_path / "kv", {"c": "3"}, max_conversations=2) == "ac"
    assert conversations(tmp_path / "kv") == 2
    assert process(model, tmp_path / "kv", {}, max_conversations=1) == "c"
    assert conversations(tmp_path / "kv") == 1


def test_what_has_been_idle_goes_at_the_next_load_and_what_has_no_id_stays(model: Path, tmp_path: Path) -> None:
    assert process(model, tmp_path / "kv", {"a": "1", "b": "2", "c": ""}) == "abc"
    assert process(model, tmp_path / "kv", {}, conversation_idle_s=1e-3) == "c"
    assert conversations(tmp_path / "kv") == 0


def test_a_conversation_that_another_process_has_gone_on_with_is_left_to_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process(model, tmp_path / "kv", {"a": "1", "b": "2"}) == "ab"
    monkeypatch.setattr(cache_disk.CacheDisk, "goes_on_elsewhere", lambda *_: lambda: True)
    assert process(model, tmp_path / "kv", {}, conversation_idle_s=1e-3) == "ab"
    assert conversations(tmp_path / "kv") == 2


@pytest.mark.parametrize(("whose", "left"), [("t", 0), ("u", 2)])
def test_clearing_takes_the_files_of_a_tenants_conversations(
    model: Path, tmp_path: Path, whose: str, left: int
) -> None:
    process(model, tmp_path / "kv", {"a": "1", "b": "2"}, clear=whose)
    assert conversations(tmp_path / "kv") == left
