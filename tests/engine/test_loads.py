"""The life of the one model: loads that hang are given up, and files that may not be read are not."""

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import psutil
import pytest

from backend.config import EngineConfig
from backend.core.errors import ModelLoadFailed, ModelNotLoaded, RequestAborted, WorkerUnavailable
from backend.engine import attempt, loads
from backend.engine.handle import EngineHandle
from backend.engine.loading import load_model, open_files
from backend.engine.preparing import opening
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model

Body = Callable[[EngineHandle], Awaitable[None]]
proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


@pytest.fixture
def own(path: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(copytree(path, tmp_path / "own"))


def refused(path: Path, words: str, **options: Any) -> None:
    """Assert that a load ends soon, in one line with these words."""
    with pytest.raises(ModelLoadFailed, match=words):
        open_files(model_config(path, **options))


class Hang:
    """Work that begins and does not end until it is let go."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, *_: object, **__: object) -> Any:
        self.begun.set()
        self.gate.wait(60)
        raise ModelLoadFailed("let go")


@pytest.fixture
def hang() -> Any:
    hang = Hang()
    yield hang
    hang.gate.set()


def test_a_load_that_hangs_in_its_files_is_given_up_by_free(
    path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(loads, "open_files", hang)
            load = asyncio.create_task(handle.load(model_config(path)))
            await asyncio.to_thread(hang.begun.wait, 20)
            await asyncio.wait_for(handle.free(), 30)
            with pytest.raises(ModelLoadFailed, match="cancelled"):
                await load
        await handle.load(model_config(path))
        assert (await read(handle, request("x", n=5))).end is not None

    with_engine(None, body)


def test_a_load_that_hangs_in_its_files_is_given_up_by_the_watchdog(
    path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "open_files", hang)
    monkeypatch.setattr(attempt, "LEAST_PATIENCE_SECONDS", 0)

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match=r"files: nothing has happened for 0\.3 s"):
            await asyncio.wait_for(handle.load(model_config(path, engine=EngineConfig(watchdog_s=0.3))), 30)
        assert handle.alive

    with_engine(None, body)


def test_a_load_that_hangs_on_its_tokenizer_costs_only_itself(
    path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(handle: EngineHandle) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(opening, "build_preparer", hang)
            load = asyncio.create_task(handle.load(model_config(path)))
            await asyncio.to_thread(hang.begun.wait, 20)
            await asyncio.wait_for(handle.free(), 30)
            with pytest.raises(ModelLoadFailed, match="cancelled"):
                await load
        assert isinstance((await read(handle, request("x"))).error, ModelNotLoaded)
        await handle.load(model_config(path))
        assert (await read(handle, request("x", n=5))).end is not None

    with_engine(None, body)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_load_that_hangs_on_the_engine_thread_ends_the_engine(
    path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(loads, "NOTICE_SECONDS_ON_ENGINE", 0.3)
    monkeypatch.setattr(attempt, "LEAST_PATIENCE_SECONDS", 0)
    watchdog_s = None if cancelled else 0.3

    async def body(handle: EngineHandle) -> None:
        load = asyncio.create_task(handle.load(model_config(path, engine=EngineConfig(watchdog_s=watchdog_s))))
        await asyncio.to_thread(hang.begun.wait, 20)
        freeing = asyncio.create_task(handle.free()) if cancelled else None
        assert "a load for 0.3 s" in await asyncio.wait_for(handle.died(), 30)
        assert not handle.alive
        await asyncio.wait_for(handle.close(), 30)
        # Whoever waits for the engine is told, while it hangs.
        outcomes = await asyncio.wait_for(asyncio.gather(load, *filter(None, [freeing]), return_exceptions=True), 30)
        assert isinstance(outcomes[0], WorkerUnavailable)
        assert outcomes[1:] in ([], [None])
        hang.gate.set()

    with_engine(None, body, load=hang)


@pytest.mark.slow
def test_a_load_that_goes_on_is_not_taken_for_one_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "LEAST_PATIENCE_SECONDS", 0)

    def slow(*args: Any, cancelled: Callable[[], bool], **options: Any) -> Any:
        for _ in range(66):
            assert not cancelled()
            time.sleep(0.1)
        return load_model(*args, cancelled=cancelled, **options)

    async def body(handle: EngineHandle) -> None:
        dying = asyncio.create_task(handle.died())
        await handle.load(model_config(path, engine=EngineConfig(watchdog_s=6.0)))
        assert not dying.done()
        dying.cancel()

    with_engine(None, body, load=slow)


def test_a_free_stops_the_loads_that_wait_too(
    path: Path, own: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "open_files", hang)

    async def body(handle: EngineHandle) -> None:
        waiting = [asyncio.create_task(handle.load(model_config(place))) for place in (path, own, path)]
        await asyncio.to_thread(hang.begun.wait, 20)
        await asyncio.wait_for(handle.free(), 30)
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, ModelLoadFailed), outcome
        assert handle.loaded_identity() is None

    with_engine(None, body)


def test_a_slow_trial_notices_that_it_is_not_wanted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.models.qwen3 import Model

    passes: list[int] = []
    original = Model.__call__

    def slow(self: Any, *inputs: Any, **more: Any) -> Any:
        passes.append(1)
        time.sleep(0.3)
        return original(self, *inputs, **more)

    monkeypatch.setattr(Model, "__call__", slow)

    async def body(handle: EngineHandle) -> None:
        load = asyncio.create_task(handle.load(model_config(path)))
        while not passes:
            await asyncio.sleep(0.01)
        before = len(passes)
        await handle.free()
        assert len(passes) <= before + 1  # the one that ran
        assert isinstance((await asyncio.gather(load, return_exceptions=True))[0], ModelLoadFailed)
        assert handle.alive

    with_engine(None, body)


def test_what_prepares_requests_is_closed_even_when_its_threads_hang(path: Path) -> None:
    earlier = {child.pid for child in psutil.Process().children()}

    async def body(handle: EngineHandle) -> None:
        model = handle._loads.current
        assert model is not None
        gate = threading.Event()
        # Not those that other tests of this process have left.
        before = [child for child in psutil.Process().children() if child.pid not in earlier]
        hanging = [asyncio.ensure_future(model.prep.run(gate.wait, 120)) for _ in range(3)]
        hanging += [asyncio.ensure_future(model.prep.run_unqueued(0, gate.wait, 120)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await asyncio.wait_for(handle.free(), 30)
        # The processes that rendered and tried grammars out.
        assert before
        _, alive = psutil.wait_procs(before, timeout=60)
        assert not alive
        gate.set()
        # Of each kind what ran comes to its end, and what waited does not begin.
        ends = [type(end) for end in await asyncio.gather(*hanging, return_exceptions=True)]
        assert ends == [bool, bool, RequestAborted, bool, RequestAborted, RequestAborted]

    with_engine(model_config(path, as_served=True), body)


def test_whatever_reading_files_raises_is_a_load_that_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise PermissionError("no entry")

    monkeypatch.setattr(loads, "open_files", broken)

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="files: PermissionError: no entry"):
            await handle.load(model_config(path))

    with_engine(None, body)


def test_a_dead_engine_looks_for_no_files(path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "open_files", hang)

    async def body(handle: EngineHandle) -> None:
        await handle.close()
        with pytest.raises(WorkerUnavailable):
            await handle.load(model_config(path))
        assert not hang.begun.is_set()

    with_engine(None, body)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_in_a_model_directory_is_never_opened(own: Path, name: str) -> None:
    (own / name).unlink(missing_ok=True)
    os.mkfifo(own / name)
    refused(own, f"{name}: is not a regular file")


def test_a_pipe_as_a_template_or_an_adapter_is_never_opened(own: Path) -> None:
    (own / "sub").mkdir()
    os.mkfifo(own / "sub" / "t")
    refused(own, "t: is not a regular file", chat_template_file="sub/t")
    (own / "lora").mkdir()
    (own / "lora" / "adapter_config.json").write_text("{}")
    os.mkfifo(own / "lora" / "adapters.safetensors")
    refused(own, "adapters.safetensors: is not a regular file", adapter="lora")


@pytest.mark.parametrize("place", [pytest.param("/proc/self/environ", marks=proc), "/etc/hosts"])
def test_a_template_elsewhere_on_the_machine_is_not_read(own: Path, place: str) -> None:
    refused(own, "chat_template_file: .*--allow-files", chat_template_file=place)
    (own / "chat_template.jinja").unlink(missing_ok=True)
    (own / "chat_template.jinja").symlink_to(place)
    refused(own, "leads out of the model's directory")


def test_what_the_system_shows_as_files_is_never_allowed(own: Path) -> None:
    refused(own, "chat_template_file", chat_template_file="/proc/self/environ", file_roots=("/", "/proc/self"))
    refused(own, "chat_template_file", chat_template_file="/etc/hosts", file_roots=("/",))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this system has no /dev/shm")
def test_a_model_in_shared_memory_is_a_model(own: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        copytree(own, Path(folder) / "model")
        assert open_files(model_config(Path(folder) / "model")).tokenizer is not None


def test_an_operator_allows_further_directories(own: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "t.jinja").write_text("shared")
    config = model_config(own, chat_template_file="t.jinja", file_roots=(str(tmp_path / "shared"),))
    assert open_files(config).tokenizer.chat_template == "shared"


def test_weights_may_be_links_and_a_snapshot_of_the_hub_keeps_its_files_elsewhere(own: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.safetensors"
    (own / "model.safetensors").rename(elsewhere)
    (own / "model.safetensors").symlink_to(elsewhere)
    open_files(model_config(own))
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    copytree(own, snapshot)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (snapshot / "tokenizer.json").rename(blobs / "abc")
    (snapshot / "tokenizer.json").symlink_to(blobs / "abc")
    open_files(model_config(snapshot))


def test_a_prompt_with_a_token_that_the_model_lacks_is_refused(own: Path) -> None:
    tokenizer = json.loads((own / "tokenizer.json").read_text())
    highest = max(token["id"] for token in tokenizer["added_tokens"])
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": highest + 1, "content": "<|beyond|>"})
    (own / "tokenizer.json").write_text(json.dumps(tokenizer))

    async def body(handle: EngineHandle) -> None:
        answer = await read(handle, request("a <|beyond|> b"))
        assert answer.error is not None
        assert "token" in answer.error.message
        assert (await read(handle, request("a b", n=5))).end is not None

    with_engine(model_config(own), body)


def test_another_models_larger_tokenizer_is_refused(own: Path, tmp_path: Path) -> None:
    larger = json.loads((own / "tokenizer.json").read_text())
    larger["model"]["vocab"] |= {f"word{n}": 1000 + n for n in range(1000)}
    (own / "larger").mkdir()
    (own / "larger" / "tokenizer.json").write_text(json.dumps(larger))
    config = model_config(own, tokenizer="larger")

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="the tokenizer has .* tokens, the model only"):
            await handle.load(config)

    with_engine(None, body)


def test_a_model_that_draws_more_tokens_than_it_can_read_is_refused(path: Path) -> None:
    def narrowed(*args: Any, **options: Any) -> Any:
        from mlx_lm.models.qwen3 import Model

        original = Model.__call__

        def wide(self: Any, *inputs: Any, **more: Any) -> Any:
            import mlx.core as mx

            logits = original(self, *inputs, **more)
            return mx.concatenate([logits, logits], axis=-1)

        Model.__call__ = wide
        try:
            return load_model(*args, **options)
        finally:
            Model.__call__ = original

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="its embedding has"):
            await handle.load(model_config(path))

    with_engine(None, body, load=narrowed)
