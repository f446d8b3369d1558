"""Code that is not ours may try to end the process: it ends a load or a request, and the worker goes on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import InternalFault, ModelLoadFailed
from backend.core.request import Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from backend.output import TokenTable
from backend.prompt.encoder import TextEncoder
from mlx_cache import PromptCache
from tests.architectures import catalogue
from tests.engine.faulty import FaultyModel
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model


def exiting() -> BaseException:
    return SystemExit(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "qwen3", "qwen3")


def test_a_model_module_that_ends_its_process_fails_the_load_and_the_next_load_works(
    path: Path, tmp_path: Path
) -> None:
    exits = catalogue.write(tmp_path / "olmo", catalogue.ENDS_THE_PROCESS)

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="wants to end the process"):
            await handle.load(model_config(exits))
        await handle.load(model_config(path))
        assert (await read(handle, request("still here", n=4))).error is None

    with_engine(None, body)


def test_a_checkpoints_own_code_that_ends_its_process_fails_the_load(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_file": "own.py"}))
    (path / "own.py").write_text("import sys\nsys.exit('not today')\n")

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed, match="not today"):
            await handle.load(model_config(path, trust_remote_code=True))
        assert handle.alive

    with_engine(None, body)


@pytest.mark.parametrize("decode", [True, False])
def test_a_model_that_ends_its_process_in_a_forward_pass_fails_the_request(path: Path, decode: bool) -> None:
    model = FaultyModel()

    async def body(handle: EngineHandle) -> None:
        model.arm(exiting, calls=2 if decode else 1, decode=decode)
        answer = await read(handle, request("a prompt", n=8, sampling=Sampling(ignore_eos=True)))
        assert isinstance(answer.error, InternalFault)
        assert (await read(handle, request("a prompt", n=8))).error is None

    with_engine(model_config(path, engine=EngineConfig(prefill_chunk=32)), body, load=model.load)


def exit_in(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, calls: range) -> list[int]:
    """Have these calls of a method end the process, as the caches of a model's own may; the calls so far."""
    sound, made = getattr(owner, name), [0]

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        made[0] += 1
        if made[0] - 1 in calls:
            raise SystemExit(1)
        return sound(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, faulty)
    return made


# How many requests may end with an error of their own.
@pytest.mark.parametrize(
    ("owner", "name", "calls", "costs"),
    [
        (Session, "submit", range(1), 1),
        (Prefills, "_restore", range(1), 1),
        pytest.param(Prefills, "_restore", range(1, 2), 1, marks=pytest.mark.slow),
        pytest.param(DecodeBatch, "join", range(1), 0, marks=pytest.mark.slow),
        (DecodeBatch, "join", range(3), 1),
        (DecodeBatch, "leave", range(1), 3),
        pytest.param(DecodeBatch, "view", range(1), 0, marks=pytest.mark.slow),
        pytest.param(PromptCache, "match_length", range(1), 0, marks=pytest.mark.slow),
        pytest.param(PromptCache, "fetch", range(1), 0, marks=pytest.mark.slow),
        (PromptCache, "insert", range(1), 0),
        pytest.param(PromptCache, "stats", range(1), 0, marks=pytest.mark.slow),
        (PromptCache, "trim_to", range(1), 0),
        (PromptCache, "clear", range(1), 0),
    ],
)
def test_a_models_own_caches_that_end_their_process_cost_requests_and_not_the_engine(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, calls: range, costs: int
) -> None:
    long = "a long prompt that comes three times " * 8

    async def body(handle: EngineHandle) -> None:
        before = await read(handle, request("the same prompt", n=8))
        made = exit_in(monkeypatch, owner, name, calls)
        crowd = await asyncio.gather(*(read(handle, request(long, n=6 + 4 * row)) for row in range(3)))
        assert sum(answer.error is not None for answer in crowd) <= costs
        assert all(isinstance(answer.error, InternalFault | None) for answer in crowd)
        # Small: what was stored must go.
        for index in range(6):
            assert (await read(handle, request(f"{index} filler " * 15, n=3))).error is None
        await handle.free()
        await handle.load(config)
        assert made[0] > calls[-1]
        assert (await read(handle, request("the same prompt", n=8))).logprobs == before.logprobs
        assert handle.alive

    engine = EngineConfig(prefill_chunk=32, kv_bytes=2 * 512 * 1280)
    config = model_config(path, engine=engine, cache=CacheConfig())
    with_engine(config, body)


def panic() -> BaseException:
    """One of tokenizers' own, as no class of ours could be."""
    with pytest.raises(BaseException, match="precompiled_charsmap") as raised:
        Tokenizer.from_str(json.dumps(PANICS))
    assert not isinstance(raised.value, Exception)
    return raised.value


PANICS = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": PANICS["normalizer"]},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"decoder": {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}},
    ],
    ids=["when it is read", "when it encodes", "when it decodes"],
)
def test_a_tokenizer_whose_library_panics_fails_the_load_and_the_next_load_works(
    path: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Such a load was never answered: what pyo3 raises is no `Exception`."""
    broken = write_model(tmp_path / "broken", "qwen3")
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer | change))

    async def body(handle: EngineHandle) -> None:
        with pytest.raises(ModelLoadFailed):
            await asyncio.wait_for(handle.load(model_config(broken)), 60)
        await handle.load(model_config(path))
        assert (await read(handle, request("still here", n=4))).error is None

    with_engine(None, body)


def test_a_tokenizer_that_panics_at_a_request_is_an_error_of_the_request_alone() -> None:
    class Panicking:
        bos_token = None

        def encode(self, text: str, **_: object) -> list[int]:
            raise panic()

    with pytest.raises(RuntimeError, match="failed in itself"):
        TextEncoder(Panicking()).encode("text", add_special_tokens=True)
    table = object.__new__(TokenTable)
    vars(table)["_decode"] = Panicking().encode
    with pytest.raises(RuntimeError, match="failed in itself"):
        table.decode([1])


class ExitingTokenizer:
    """A tokenizer of a checkpoint's own that ends its process."""

    bos_token = None

    def encode(self, text: str, **_: object) -> list[int]:
        raise SystemExit(1)


def test_a_tokenizer_that_ends_its_process_is_an_error_of_the_request_alone() -> None:
    with pytest.raises(RuntimeError, match="wants to end the process"):
        TextEncoder(ExitingTokenizer()).encode("text", add_special_tokens=True)
    table = object.__new__(TokenTable)
    vars(table)["_decode"] = ExitingTokenizer().encode
    with pytest.raises(RuntimeError, match="wants to end the process"):
        table.decode([1])
